"""What each attack of the red team does to each reward: the expected table, as data.

`lose`: the true clip ranks above the attacked one. `not gain`: no attack raises the reward on average. `invariant`: the
reward is the same by its formula. A recipe as a whole must lose where one of its rewards or gates must; a reward that
cannot be measured on the attacked clip has lost, since it is priced below the true clips.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

Verdict = Literal["lose", "not gain", "invariant"]

_FALLS = ("drop", "bounce", "throw")
SCENES: dict[str, tuple[str, ...]] = {
    "incline": ("slope",),
    "collision": ("collide",),
    "momentum": ("collide",),
    "non_penetration": ("collide",),
    "pendulum": ("pendulum",),
    "divergence_free": ("swirl",),
    "pde_residual": ("swirl",),
    "galileo": ("drop", "bounce"),
    "energy_rise": ("drop", "bounce"),
    "restitution": ("drop", "bounce"),
}
"""Kinds of scenes that a reward speaks of; rewards not listed speak of everything that flies."""

LOSE: dict[str, dict[str, str]] = {
    "gravity": {
        "freeze": "nothing falls",
        "slow_motion": "the acceleration goes with the square of the speed",
        "fast_motion": "the acceleration goes with the square of the speed",
        "vanish": "no object, no measurement",
        "edge": "the object is hidden",
    },
    "galileo": {"freeze": "nothing falls", "vanish": "no object, no measurement"},
    "arc_residual": {
        "freeze": "nothing flies",
        "vanish": "no object, no measurement",
        "teleport": "a jump is no flight",
        "jitter": "no parabola",
    },
    "energy_drift": {
        "freeze": "nothing flies",
        "slow_motion": "too little speed for the height lost",
        "fast_motion": "too much speed for the height lost",
        "vanish": "no object, no measurement",
    },
    "energy_variance": {
        "freeze": "nothing flies",
        "slow_motion": "too little speed for the height lost",
        "fast_motion": "too much speed for the height lost",
        "vanish": "no object, no measurement",
    },
    "energy_rise": {
        "freeze": "nothing flies",
        "vanish": "no object, no measurement",
        "pump_energy": "the impact brings energy",
    },
    "restitution": {
        "freeze": "nothing bounces",
        "vanish": "no object, no measurement",
        "pump_energy": "the coefficient is above one",
    },
    "projectile": {
        "freeze": "nothing flies",
        "slow_motion": "the acceleration goes with the square of the speed",
        "fast_motion": "the acceleration goes with the square of the speed",
        "vanish": "no object, no measurement",
    },
    "incline": {"freeze": "nothing slides", "vanish": "no object, no measurement"},
    "pendulum": {
        "freeze": "nothing swings",
        "slow_motion": "the period is too long",
        "fast_motion": "the period is too short",
        "vanish": "no object, no measurement",
    },
    "collision": {"freeze": "nothing collides", "vanish": "no second object"},
    "momentum": {"freeze": "nothing collides", "vanish": "no second object"},
    "non_penetration": {"freeze": "the bodies never meet", "vanish": "no second object"},
    "rigidity": {
        "freeze": "it does not move, and so says nothing",
        "vanish": "its area goes",
        "melt": "its shape changes",
        "shrink": "its area wanes",
        "grow": "its area waxes",
    },
    "divergence_free": {"freeze": "nothing flows"},
    "pde_residual": {"freeze": "nothing flows", "flicker": "brightness is made and lost"},
    "motion_gate": {"freeze": "nothing moves"},
    "observability_gate": {
        "vanish": "the object is gone",
        "fade": "its mask wanes",
        "shrink": "its mask wanes",
        "grow": "its mask waxes",
        "duplicate": "its mask doubles",
        "edge": "it is hidden",
    },
    "own_colours": {
        "vanish": "its colours are gone",
        "fade": "its colours go over into the background's",
        "shrink": "fewer pixels have its colours",
        "grow": "more pixels have its colours",
        "edge": "it is hidden",
    },
    "sharpness": {"blur": "edges soften"},
    "saturation": {"overexpose": "pixels saturate"},
    "background": {
        "camera_shake": "the background moves",
        "flicker": "the background flickers",
        "background_drift": "the background moves",
        "overexpose": "the background brightens",
    },
    "registration": {
        "camera_shake": "the background moves",
        "flicker": "the background flickers",
        "background_drift": "the background moves",
        "overexpose": "the background brightens",
        "blur": "the background's edges soften",
    },
    "continuity": {"teleport": "a step unlike its neighbours"},
    "steadiness": {"camera_shake": "the picture jerks as one"},
    "first_frame": {"reverse_time": "another first frame"},
    "flow_match": {
        "freeze": "no flow",
        "slow_motion": "too little flow",
        "fast_motion": "too much flow",
        "vanish": "no flow",
        "teleport": "other flow at the jump, and elsewhere",
        "jitter": "other flow",
        "edge": "other flow",
        "camera_shake": "other flow",
        "reverse_time": "flow the other way",
    },
    "depth_match": {
        "freeze": "the object is elsewhere",
        "slow_motion": "the object is elsewhere",
        "fast_motion": "the object is elsewhere",
        "vanish": "the object is nowhere",
        "teleport": "the object is elsewhere",
        "edge": "the object is elsewhere",
        "reverse_time": "the object is elsewhere",
    },
    "segmentation_match": {
        "freeze": "the object is elsewhere",
        "slow_motion": "the object is elsewhere",
        "fast_motion": "the object is elsewhere",
        "vanish": "the object is nowhere",
        "shrink": "the masks' areas differ",
        "grow": "the masks' areas differ",
        "melt": "the masks' shapes differ",
        "teleport": "the object is elsewhere",
        "jitter": "the object is elsewhere",
        "edge": "the object is elsewhere",
        "reverse_time": "the object is elsewhere",
    },
}
"""Which attacks each reward must lose to, and why."""

_UNIT_FREE = "neither metres nor seconds enter"
INVARIANT: dict[str, dict[str, str]] = {
    "gravity": {
        "cut_bounce": "only the first flight counts",
        "pump_energy": "only the first flight counts",
    },
    "galileo": {"slow_motion": _UNIT_FREE, "fast_motion": _UNIT_FREE},
    "arc_residual": {
        "slow_motion": _UNIT_FREE,
        "fast_motion": _UNIT_FREE,
        "cut_bounce": "a lower rebound is a parabola from the same impact, and who lies still flies none",
    },
    "energy_rise": {
        "slow_motion": _UNIT_FREE,
        "fast_motion": _UNIT_FREE,
        "cut_bounce": "what an impact takes never counts, however much",
    },
    "restitution": {"slow_motion": _UNIT_FREE, "fast_motion": _UNIT_FREE},
    "collision": {"slow_motion": _UNIT_FREE, "fast_motion": _UNIT_FREE},
    "momentum": {"slow_motion": _UNIT_FREE, "fast_motion": _UNIT_FREE},
    "non_penetration": {"slow_motion": _UNIT_FREE, "fast_motion": _UNIT_FREE},
    "rigidity": {"slow_motion": _UNIT_FREE, "fast_motion": _UNIT_FREE, "cut_bounce": "shape alone counts"},
}
"""Which attacks leave a reward as it is, and why."""


def verdict(reward: str, attack: str) -> tuple[Verdict, str]:
    """What the attack does to the reward, and why.

    Raises:
        ValueError: no verdict on that reward.
    """
    if reward not in LOSE:
        raise ValueError(f"no verdict on {reward}: add it to trainers/redteam/verdicts.py")
    if attack in LOSE[reward]:
        return "lose", LOSE[reward][attack]
    if attack in INVARIANT.get(reward, {}):
        return "invariant", INVARIANT[reward][attack]
    return "not gain", "it says nothing of that, and must not be fooled"


def recipe_verdict(rewards: Iterable[str], attack: str) -> Verdict:
    """What the attack does to rewards and gates together."""
    verdicts = {verdict(reward, attack)[0] for reward in rewards}
    return "lose" if "lose" in verdicts else "invariant" if verdicts == {"invariant"} else "not gain"


def scenes(rewards: Iterable[str]) -> tuple[str, ...]:
    """The kinds of scenes that all of the rewards speak of."""
    kinds: tuple[str, ...] = (*_FALLS, "slope", "collide", "pendulum", "swirl")
    special = [SCENES[reward] for reward in rewards if reward in SCENES] or [_FALLS]
    for own_kinds in special:
        kinds = tuple(kind for kind in kinds if kind in own_kinds)
    return kinds


def names_of(recipe: Any) -> list[str]:
    """The rewards and gates that decide a recipe's total, by the names that this table has for them."""
    return [term.name.rpartition(":")[2] for term in (*recipe.config.rewards, *recipe.config.gates)]

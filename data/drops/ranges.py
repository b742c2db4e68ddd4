"""The ranges that the scenes of each split are drawn from, and the splits' first seeds.

The held-out ranges share no drop height, camera distance, shape or hue with the training ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GRAVITY_M_S2 = 9.81

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Uniform ranges (low, high) from which the scenes of one split are drawn."""

    shapes: tuple[str, ...] = ("sphere", "box", "cylinder")
    kinds: Mapping[str, float] = field(
        default_factory=lambda: {"drop": 0.68, "bounce": 0.08, "throw": 0.1, "slide": 0.07, "collide": 0.07}
    )
    """Probability of each kind of scene."""
    size_m: Interval = (0.22, 0.32)
    """Half the object's extent: a sphere's radius."""
    height_m: Interval = (0.7, 1.4)
    """Clearance between the object's lowest point and the floor when it is released."""
    hue: Interval = (0.02, 0.92)
    """On the colour circle; what it leaves open, with a margin on both sides, is the hue of held-out objects."""
    distance_m: Interval = (3.1, 3.9)
    """From the camera to the point it looks at, `LOOK_AT_M` above the floor."""
    pitch_deg: Interval = (0.0, 30.0)
    """How far the camera looks down."""
    fov_deg: Interval = (42.0, 50.0)
    """Vertical field of view."""
    restitution: Interval = (0.2, 0.7)
    fps: tuple[float, ...] = (16.0,)
    g_m_s2: tuple[tuple[float, float, float], ...] = ((1.0, GRAVITY_M_S2, GRAVITY_M_S2),)
    """Mixture of uniform ranges, each (probability, low, high)."""


SLOW_GRAVITY = ((0.8, 2.0, 5.0), (0.2, 5.0, 14.0))
"""Falls that are mostly too slow, with a tail, as pretrained video models produce them."""

TRAINING = Ranges(height_m=(0.55, 1.4), distance_m=(2.6, 3.9), fov_deg=(40.0, 54.0), g_m_s2=SLOW_GRAVITY)
"""What the video model knows and ORO trains on: a metre is 17 to 34 px long, so that the scale has to be read off the
scene and not learned by heart."""

SPLITS: dict[str, Ranges] = {
    "train": TRAINING,
    "validation": TRAINING,
    "varied": Ranges(
        size_m=(0.16, 0.38),
        height_m=(0.4, 1.4),
        distance_m=(2.6, 3.9),
        fov_deg=(40.0, 56.0),
        g_m_s2=((1.0, 2.0, 14.0),),
        fps=(12.0, 16.0, 20.0, 24.0),
    ),
    "practice": Ranges(
        kinds={"drop": 0.85, "bounce": 0.15},
        height_m=(0.55, 1.4),
        distance_m=(2.8, 3.9),
        fov_deg=(40.0, 62.0),
        g_m_s2=SLOW_GRAVITY,
    ),
    "tall": Ranges(
        kinds={"drop": 0.85, "bounce": 0.15},
        height_m=(1.75, 2.0),
        distance_m=(3.4, 3.9),
        fov_deg=(52.0, 62.0),
        g_m_s2=SLOW_GRAVITY,
    ),
    "heldout": Ranges(
        shapes=("capsule",),
        kinds={"drop": 0.8, "bounce": 0.05, "throw": 0.05, "slide": 0.05, "collide": 0.05},
        height_m=(1.4, 1.7),
        hue=(0.95, 0.99),
        distance_m=(3.9, 4.3),
        g_m_s2=((0.5, GRAVITY_M_S2, GRAVITY_M_S2), (0.5, 2.0, 14.0)),
    ),
}
"""`train` and `validation` share ranges and differ in seeds; `varied` trains the estimators; `practice` gives ORO and
RWR first frames by wider lenses than the video model knows, a metre down to 14 px, and `tall` from greater heights;
`heldout`, whose heights lie between the two, judges."""

SPLIT_SEEDS = {
    "train": 0,
    "validation": 10_000_000,
    "varied": 20_000_000,
    "heldout": 30_000_000,
    "practice": 40_000_000,
    "tall": 50_000_000,
}
"""First seed of each split, so that no two splits share a scene."""

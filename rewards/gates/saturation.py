"""A guard against overexposure and underexposure."""

from __future__ import annotations

from torch import Tensor

from reward_physics.observation import Observation

_MARGIN = 0.02


def saturation(observation: Observation, *, tolerance: float = 0.05, enough: float = 1.0) -> Tensor:
    """Are there no more pixels at the ends of the range than in the first frame?

        share_t = mean clip((|x - 1/2| - 1/2 + m) / m, 0, 1),  m = 0.02
        r = min(1, exp(-relu(mean_t share_t - share_0) / tolerance) / enough)

    A saturated pixel carries no gradient through a clamp, and a picture of them can hide anything. Pixels beyond [0, 1]
    count as saturated; those within two hundredths of an end count in part, so that there is a gradient.

    Args:
        observation: any.
        tolerance: additional share of saturated colours that leaves 0.37 of the score, > 0.
        enough: score from which it is 1, in (0, 1].

    Returns:
        (B,) in (0, 1].
    """
    if not tolerance > 0 or not 0 < enough <= 1:
        raise ValueError(f"saturation: needs tolerance > 0 and enough in (0, 1], got {tolerance} and {enough}")
    frames = observation.video.frames_BTCHW
    share_BT = (((frames - 0.5).abs() - 0.5 + _MARGIN) / _MARGIN).clamp(0, 1).mean((2, 3, 4))
    excess_B = (share_BT.mean(1) - share_BT[:, 0].detach()).clamp(min=0)
    return ((-excess_B / tolerance).exp() / enough).clamp(max=1)

"""Does a clip begin with the frame that it was given?"""

from __future__ import annotations

from torch import Tensor

from reward_physics.observation import Observation
from rewards.matches.reference import fitted


def first_frame(observation: Observation, *, reference_BTCHW: Tensor, tolerance: float = 0.05) -> Tensor:
    """Fidelity of the first frame to that of the reference clip.

        r = exp(-mean |x_0 - y_0|^2 / tolerance^2)

    1 for the very frame, 0.37 for a root mean square difference of `tolerance`, which an object of a thirtieth of the
    picture that is missing exceeds.

    Args:
        observation: any.
        reference_BTCHW: the data's clips in [0, 1] (a column of the data), brought to the clip's size.
        tolerance: root mean square difference of colours, > 0.

    Returns:
        (B,) in (0, 1].
    """
    if not tolerance > 0:
        raise ValueError(f"first_frame: tolerance must be > 0, got {tolerance}")
    first_BCHW = observation.video.frames_BTCHW[:, 0]
    reference = fitted(reference_BTCHW[:, :1], observation.video.with_frames(first_BCHW[:, None]))[:, 0]
    return (-(first_BCHW - reference).square().mean((1, 2, 3)) / tolerance**2).exp()

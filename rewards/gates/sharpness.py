"""A guard against smears and against texture that was painted on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_physics.observation import Observation


def sharpness(observation: Observation, *, enough: float = 1.0, allowed: float = 1.0) -> Tensor:
    """Is the object as sharp as in the first frame, neither less nor more?

        s_t = (E_t / E_0),    r = min(1, mean_t min(s_t, 1, allowed / s_t) / enough)

    with E_t the root mean square gradient of the colours within two pixels of the object. The mean is over the later
    frames in which the object is seen whole. Where the pixels lie is taken detached.

    Args:
        observation: needs a mask.
        enough: sharpness from which the score is 1, in (0, 1]: true clips lose some by motion blur and by a change of
            the background.
        allowed: sharpness up to which more is no fault, >= 1: an autoencoder adds some texture.

    Returns:
        (B,) in [0, 1]. NaN where the object is not seen in the first frame and a later one.
    """
    if not 0 < enough <= 1:
        raise ValueError(f"sharpness: enough must lie in (0, 1], got {enough}")
    if not 1 <= allowed < float("inf"):
        raise ValueError(f"sharpness: allowed must be >= 1, got {allowed}")
    frames, track = observation.video.frames_BTCHW, observation.image_track
    mask_BTHW = (observation.mask_BTHW * track.window_BTHW).detach() >= 0.5
    near = F.max_pool2d(mask_BTHW.to(frames), 5, stride=1, padding=2)[:, :, 1:, 1:]
    dv = (frames[..., 1:, :] - frames[..., :-1, :])[..., 1:]
    du = (frames[..., 1:] - frames[..., :-1])[..., 1:, :]
    energy_BTHW = (du.square() + dv.square()).sum(2)
    pixels_BT = near.sum((2, 3))
    sharp_BT = ((energy_BTHW * near).sum((2, 3)) / pixels_BT.clamp(min=1) + 1e-8).sqrt()
    ratio_BT = sharp_BT[:, 1:] / sharp_BT[:, :1].detach()
    alike_BT = torch.where(ratio_BT < 1, ratio_BT, (allowed / ratio_BT).clamp(max=1))
    used_BT = (track.weight_BT[:, 1:] > 0.1) & (pixels_BT[:, 1:] > 0)
    score_B = (alike_BT * used_BT).sum(1) / used_BT.sum(1).clamp(min=1) / enough
    known_B = used_BT.any(1) & (pixels_BT[:, 0] > 0)
    return torch.where(known_B, score_B.clamp(max=1), torch.nan)

"""Rigidity: does the object keep its size and its shape?"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.grid import pixel_centres
from reward_physics.laws.rigidity import measure_rigidity
from reward_physics.observation import Observation


def rigidity(
    observation: Observation, *, tolerance: float = 0.05, stretch: float = 0.25, least_travel: float = 1.0
) -> Tensor:
    """Minus the mean squared change of the object's area and shape over the frames that should show it whole:

        r = -mean_t (relu(|s_t| - tolerance)^2 + relu(|f_t| - tolerance)^2 + relu(q_t - stretch)^2)

    s = (A - A_0) / (A + A_0) with A_0 the area in the first frame; f the same of Hu's first invariant (smearing,
    splitting); q how far the ellipse with the mask's moments is stretched or turned since the first frame (melting).
    0 for a rigid object at its distance; an object that has vanished counts as -1 per frame. Unit-free.

    Args:
        observation: needs a mask; for clips with one object.
        tolerance: change that is allowed, of s and of f: a body that tumbles shows other sides.
        stretch: the same of q, in [0, 2], 2 to leave it out. A box, or an edge that an autoencoder frays, has up to
            0.37 in a frame and 0.17 on average; a disc that becomes twice as wide as it is high 0.6, and a long body
            that tumbles as much: it needs 2.
        least_travel: way in radii from which a clip is judged: one that is frozen keeps its shape for nothing.

    Returns:
        (B,), no unit, in [-5, 0]. NaN where the object moves less than that or is never inside the picture.
    """
    if not (tolerance >= 0 and stretch >= 0 and least_travel >= 0):
        raise ValueError(
            f"rigidity: needs tolerance, stretch and least_travel >= 0, got {tolerance}, {stretch}, {least_travel}"
        )
    track = observation.image_track
    first = observation.video.first_mask_BHW
    seen = torch.where(track.weight_BT > 0.5, track.area_BT.detach(), torch.nan).nanmedian(1).values.nan_to_num(1.0)
    usual = seen if first is None else first.to(seen).sum((1, 2))
    usual = usual.clamp(min=1.0)
    around = _around(observation.mask_BTHW, track.centroid_BT2, usual)
    figures = measure_rigidity(observation.mask_BTHW * around, track.centroid_BT2, usual)
    changes = ((figures.size_BT.abs(), tolerance), (figures.shape_BT.abs(), tolerance), (figures.stretch_BT, stretch))
    error = sum(
        ((change - allowed).clamp(min=0).square() for change, allowed in changes), torch.zeros_like(figures.size_BT)
    )
    count = figures.inside_BT.sum(1)
    judged = (count >= 2) & (figures.travel_B >= least_travel)
    return observation.like_clips(torch.where(judged, -error.sum(1) / count.clamp(min=1), torch.nan))


@torch.no_grad()
def _around(mask_BTHW: Tensor, centroid_BT2: Tensor, usual_area_B: Tensor) -> Tensor:
    """Discs of 1.7 radii around the object: smears that leave its own outline count too."""
    away = pixel_centres(mask_BTHW) - centroid_BT2[:, :, None, None]
    return (away.square().sum(-1) < 1.7**2 * usual_area_B[:, None, None, None] / torch.pi).to(mask_BTHW)

"""A gate that a faded, shrunk or swollen object does not pass, whatever a segmenter takes for it."""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.grid import disc, pixel_centres
from reward_physics.objects.finder import THE_OBJECT
from reward_physics.objects.masks import by_appearance
from reward_physics.observation import Observation
from reward_physics.tracks.in_image import ImageTrack
from rewards.gates.observability_gate import perspective, steady_share

_LEAST_OF_MASK = 0.5


def own_colours(observation: Observation, *, enough: float = 1.0, reach: float = 2.2) -> Tensor:
    """Is as much of every body's own colours there as in the first frame?

        a_t = (A_t / e_t) / A_0,    gate = prod_bodies min(1, mean_t min(a_t, 1 / a_t) / enough)

    with A_t the area, within `reach` radii of the body, that has the colours of its first frame rather than those of
    the background (`masks.by_appearance`), less what belongs to another body, and e_t as in `observability_gate`. A
    segmenter sees a body that has half faded as well as a whole one, and of some bodies only a part, which one that
    grows fills up: colours err elsewhere than it does.

    Args:
        observation: clips with `Video.first_mask_BHW` or `object_masks_BNHW`; needs a mask.
        enough: mean share from which the gate is open, in (0, 1].
        reach: radius of the disc about the body's place, in radii of its first mask, > 1.

    Returns:
        (B,) in [0, 1]; never NaN: a clip without an object is shut.

    Raises:
        ValueError: no first mask, or a parameter out of its range.
    """
    if not (0 < enough <= 1 and reach > 1):
        raise ValueError(f"own_colours: needs enough in (0, 1] and reach > 1, got {enough}, {reach}")
    first_BHW, first_BNHW = observation.video.first_mask_BHW, observation.video.object_masks_BNHW
    if first_BNHW is None:
        if first_BHW is None:
            raise ValueError(f"own_colours: needs {THE_OBJECT} in the first frame: give first_mask_BHW")
        nothing = torch.zeros_like(observation.video.frames_BTCHW[:, :, 0])
        return (_seen(observation, first_BHW, observation.image_track, nothing, reach) / enough).clamp(max=1)
    masks, gate_B = observation.object_masks, torch.ones_like(observation.video.frames_BTCHW[:, 0, 0, 0, 0])
    for n, (first, track) in enumerate(zip(first_BNHW.unbind(1), observation.object_tracks, strict=True)):
        neighbours = [neighbour.detach() for k, neighbour in enumerate(masks) if k != n]
        neighbour_BTHW = torch.stack(neighbours).amax(0) if neighbours else torch.zeros_like(masks[n])
        share_B = (_seen(observation, first, track, neighbour_BTHW, reach) / enough).clamp(max=1)
        gate_B = gate_B * torch.where(first.sum((1, 2)) >= 1, share_B, 1.0)
    return torch.where((first_BNHW.sum((2, 3)) >= 1).any(1), gate_B, 0.0)


def _seen(
    observation: Observation, first_BHW: Tensor, track: ImageTrack, neighbour_BTHW: Tensor, reach: float
) -> Tensor:
    """Mean over the frames of the share of a body's first area that has its colours, (B,)."""
    like = by_appearance(observation.video.frames_BTCHW, first_BHW)
    usual_B = first_BHW.to(like).sum((1, 2))
    radius_B = reach * (usual_B.clamp(min=1) / torch.pi).sqrt()
    uv, centre = pixel_centres(like), track.centroid_BT2.detach().to(like)
    near = disc(centre.flatten(0, 1), uv, radius_B[:, None].expand(centre.shape[:2]).flatten()).view_as(like)
    area_BT = (like * near * (1 - neighbour_BTHW)).sum((2, 3))
    first_B = torch.maximum(area_BT[:, 0].detach(), _LEAST_OF_MASK * usual_B)
    return steady_share(area_BT / (first_B.clamp(min=1)[:, None] * perspective(observation, track)))

"""A gate that a hidden, faded, swollen or doubled object does not pass."""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.observation import Observation
from reward_physics.tracks.in_image import ImageTrack
from reward_physics.tracks.in_metres import horizontal_distance


def observability_gate(observation: Observation, *, enough: float = 0.8) -> Tensor:
    """Is the object there, once and whole, in every frame?

        a_t = (A_t / e_t) / (A_0 / e_0),    gate = prod_bodies min(1, mean_t min(a_t, 1 / a_t) / enough)

    with A_t the area of the whole frame's mask, also outside the window in which the object is followed, so that a
    second object counts, and A_0 that of the first frame (at least that of the known first mask). 1 for a true clip in
    which the object stays in the picture; a half-faded, half-hidden, doubled or twice as large object scores 0.5 before
    `enough`. e_t is the size that perspective gives a body at a constant horizontal distance, |P_t| / Z_t^3 with P_t
    its place and Z_t its depth; 1 where the camera is unknown. An object that leaves the picture on its own loses too:
    it cannot be measured there either. Whatever moves towards the camera needs a smaller `enough`. Of several bodies
    whose first masks are known each has its share of the mask: what one lacks no other can fill up.

    Args:
        observation: needs a mask.
        enough: mean share from which the gate is open, in (0, 1].

    Returns:
        (B,) in [0, 1]; never NaN: a clip without an object is shut, not unknown.
    """
    if not 0 < enough <= 1:
        raise ValueError(f"observability_gate: enough must lie in (0, 1], got {enough}")
    known = observation.video.first_mask_BHW
    share_B = _seen(observation, observation.mask_BTHW, known, observation.image_track)
    gate_B = (share_B / enough).clamp(max=1)
    first_BNHW = observation.video.object_masks_BNHW
    if first_BNHW is None:
        return gate_B
    there_BN = first_BNHW.sum((2, 3)) >= 1
    each_BN = torch.stack(
        [
            _seen(observation, *body)
            for body in zip(observation.object_masks, first_BNHW.unbind(1), observation.object_tracks, strict=True)
        ],
        dim=1,
    )
    each_BN = torch.where(there_BN, (each_BN / enough).clamp(max=1), 1.0)
    return torch.where(there_BN.sum(1) >= 2, each_BN.prod(1), gate_B)


def _seen(observation: Observation, mask_BTHW: Tensor, first_BHW: Tensor | None, track: ImageTrack) -> Tensor:
    """Mean over the frames of how much of a body's usual area is seen, once, (B,)."""
    area_BT = mask_BTHW.sum((2, 3))
    usual_B = area_BT[:, 0].detach()
    if first_BHW is not None:
        usual_B = torch.maximum(usual_B, first_BHW.to(usual_B).sum((1, 2)))
    return steady_share(area_BT / (usual_B.clamp(min=1)[:, None] * perspective(observation, track)))


def steady_share(share_BT: Tensor) -> Tensor:
    """mean_t min(a_t, 1 / a_t): 1 where the share stays 1, less where it wanes or waxes, (B,)."""
    small_BT = share_BT < 1
    # Inverting a safe value: an area of nothing must not put infinity into the gradient.
    return torch.where(small_BT, share_BT, 1 / torch.where(small_BT, 1.0, share_BT)).mean(1)


@torch.no_grad()
def perspective(observation: Observation, track: ImageTrack) -> Tensor:
    """How large a small body at a constant horizontal distance looks against the first frame, (B, T): the solid angle
    goes as 1 / |P|^2 and a pixel's as (Z / |P|)^3. 1 where there is no camera, and where it looks along the fall."""
    camera, centroid = observation.video.camera, track.centroid_BT2.detach()
    if camera is None:
        return torch.ones_like(centroid[..., 0])
    depth = 1 / horizontal_distance(camera, centroid, torch.ones_like(centroid[..., 0])).clamp(min=1e-3)
    here = camera.unproject(centroid, depth) - camera.world_from_camera_B44[:, None, :3, 3].to(depth)
    looks = here.norm(dim=-1) / depth**3
    return (looks / looks[:, :1]).clamp(0.25, 4).to(centroid)

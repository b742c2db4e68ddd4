"""A foreground shared out among objects whose first masks are known: to whom does a pixel belong?

    p_n = softmax_n of -4 (log(d_n^2 + noise^2) + min(r_n^2, 4) / 2)

with d_n the distance of a pixel's colour to the nearest of the object's colours in the first frame, and r_n its
distance from where the object is, in the object's radii. Where the objects' colours are far apart they decide; where
they are alike, and at edges that mix with what lies behind, the place does. The places are followed for all objects
together, so that of two that touch neither takes the other, or the middle of both, for itself.

Axes: B clips, T frames, N objects, C colours, H rows, W columns, K colours of an object.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.grid import blob, disc, heaviest, mean_place, pixel_centres
from reward_physics.objects.masks import object_colours

_NOISE = 0.05
_SHARPNESS = 4.0
_FARTHEST_RADII2 = 4.0
_SETTLING = (1.0, 1.0, 0.3, 0.0, 0.0)
"""How much of its reach a window has beyond the object, round by round."""


@torch.no_grad()
def shares(frames_BTCHW: Tensor, foreground_BTHW: Tensor, first_BNHW: Tensor) -> Tensor:
    """The share of every pixel that belongs to each object, (B, N, T, H, W), detached; over the objects they sum to 1.

    Args:
        frames_BTCHW: colours in [0, 1].
        foreground_BTHW: soft mask of all objects together.
        first_BNHW: the mask of each in the first frame; an empty one is an object that this clip has not.
    """
    first, uv = first_BNHW.to(frames_BTCHW), pixel_centres(foreground_BTHW)
    unlike = torch.stack([_unlike(frames_BTCHW, first_BHW) for first_BHW in first.unbind(1)], dim=2)
    there_BN = first.sum((2, 3)) >= 1
    unlike = torch.where(there_BN[:, None, :, None, None], unlike, 1e3)
    size = foreground_BTHW.shape[-2:]
    batch, objects = first_BNHW.shape[:2]
    centre, window, area = (part.unflatten(0, (batch, objects)) for part in blob(first.reshape(-1, *size)))
    radius, speed = (area / torch.pi).sqrt().clamp(min=1.0), torch.zeros_like(centre)
    parts = [_shared(unlike[:, 0], uv, centre, radius)]
    for t in range(1, frames_BTCHW.shape[1]):
        mask, reach, place = foreground_BTHW[:, t, None], 3 + 0.5 * speed.norm(dim=-1), centre + speed
        for beyond in _SETTLING:
            own = mask * _shared(unlike[:, t], uv, place, radius)
            place, mass = mean_place(own * _discs(place, uv, window + beyond * reach), place)
        # What is lost is looked for among the pixels that are nobody else's.
        own = mask * _shared(unlike[:, t], uv, place, radius)
        again = heaviest(own.reshape(-1, *size)).unflatten(0, (batch, objects))
        again, held = mean_place(own * _discs(again, uv, window), again)
        place = torch.where(((mass < 0.25 * area) & (held > 0.4 * area))[..., None], again, place)
        # Hidden in part, by another or by the border, it goes on as it went.
        speed = torch.where((mass > 0.75 * area)[..., None], place - centre, speed)
        centre = place
        parts.append(_shared(unlike[:, t], uv, centre, radius))
    return torch.stack(parts, dim=2)


def _shared(unlike_BNHW: Tensor, uv_HW2: Tensor, centre_BN2: Tensor, radius_BN: Tensor) -> Tensor:
    away = (uv_HW2 - centre_BN2[:, :, None, None]).square().sum(-1) / radius_BN[..., None, None].square()
    return torch.softmax(-_SHARPNESS * (unlike_BNHW + away.clamp(max=_FARTHEST_RADII2) / 2), dim=1)


def _unlike(frames_BTCHW: Tensor, mask_BHW: Tensor) -> Tensor:
    """How unlike an object's own colours every pixel is, (B, T, H, W): log of the squared distance and the noise's."""
    palette_BKC = object_colours(frames_BTCHW[:, 0], mask_BHW)
    away = [(frames_BTCHW - colour[:, None, :, None, None]).square().sum(2) for colour in palette_BKC.unbind(1)]
    return (torch.stack(away).amin(0) + _NOISE**2).log()


def _discs(centre_BN2: Tensor, uv_HW2: Tensor, radius_BN: Tensor) -> Tensor:
    return disc(centre_BN2.flatten(0, 1), uv_HW2, radius_BN.flatten()).unflatten(0, centre_BN2.shape[:2])

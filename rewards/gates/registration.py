"""A guard of the whole picture: its background stays in register with the first frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_physics.observation import Observation

_ROUNDS = 2
_LEAST_RESIDUAL = 0.03
_BORDER_PX = 2


def registration(
    observation: Observation, *, shift_px: float = 0.4, gain: float = 0.04, blur_px2: float = 0.3, margin_px: int = 3
) -> Tensor:
    """Is the background where it was, as bright and as sharp as in the first frame?

        x_t = x_0 - u_t . grad x_0 + (b_t / 2) laplace x_0 + k_t x_0
        r = exp(-relu(|u| / shift_px - 1/2)^2 - relu(|k| / gain - 1/2)^2 - relu(|b| / blur_px2 - 1/2)^2)

    with u the shift of the picture, k its gain and b the variance of a blur (below 0: sharpened), found by robust least
    squares over the pixels that lie farther than `margin_px` from the object, and |.| the root mean square over the
    frames (of b the mean's size). Half of each tolerance is free. Where `gates.background` adds up changes of colour,
    to which a shadow that moves gives most, this asks how all edges moved together: a shadow is an outlier, and faint
    edges say as much as strong ones. For a fixed camera. Source of the linear model: Lucas and Kanade, "An Iterative
    Image Registration Technique", IJCAI 1981.

    Args:
        observation: needs a mask.
        shift_px: root mean square shift that leaves 0.78 of the score, > 0.
        gain: the same for the relative change of brightness, > 0.
        blur_px2: the same for the variance of the blur, px^2, > 0.
        margin_px: distance from the object from which a pixel is background, >= 0.

    Returns:
        (B,) in [0, 1]. NaN where a clip has no background.
    """
    if not (shift_px > 0 and gain > 0 and blur_px2 > 0 and margin_px >= 0):
        raise ValueError(
            "registration: needs shift_px > 0, gain > 0, blur_px2 > 0 and margin_px >= 0, got "
            f"{shift_px}, {gain}, {blur_px2}, {margin_px}"
        )
    frames = observation.video.frames_BTCHW
    object_BTHW = (observation.mask_BTHW.detach() >= 0.5).to(frames)
    near = F.max_pool2d(object_BTHW, 2 * margin_px + 1, stride=1, padding=margin_px)
    # What lies beyond the border is unknown, so that nothing can be said of how edges there move.
    edge = _BORDER_PX
    free = F.pad(1 - near[..., edge:-edge, edge:-edge], (edge,) * 4)
    moved_BT4, known_B = _registered(_smoothed(frames), free[:, 1:] * free[:, :1])
    size_B3 = torch.stack(
        (
            _root(moved_BT4[..., :2].square().sum(-1).mean(1)),
            _root(moved_BT4[..., 3].square().mean(1)),
            moved_BT4[..., 2].mean(1).abs(),
        ),
        dim=-1,
    )
    excess_B3 = (size_B3 / size_B3.new_tensor([shift_px, gain, blur_px2]) - 0.5).clamp(min=0)
    return torch.where(known_B, (-excess_B3.square().sum(-1)).exp(), torch.nan)


def _registered(frames_BTCHW: Tensor, free_BSHW: Tensor) -> tuple[Tensor, Tensor]:
    """Shift (u, v) in px, blur in px^2 and gain of every later frame, (B, S, 4), and which clips have a background."""
    first = frames_BTCHW[:, 0].detach()
    basis_BCN4 = _basis(first).flatten(2, 3)
    change_BSCN = (frames_BTCHW[:, 1:] - first[:, None]).flatten(3)
    free_BSN = free_BSHW.flatten(2)
    # Sums over the colours of every pixel, of which each round takes another weighted sum.
    pairs_BN16 = torch.einsum("bcni,bcnj->bnij", basis_BCN4, basis_BCN4).flatten(2)
    along_BSN4 = torch.stack([(change_BSCN * basis_BCN[:, None]).sum(2) for basis_BCN in basis_BCN4.unbind(-1)], dim=-1)
    size_BSN = change_BSCN.square().sum(2).detach()
    ridge_BS44 = torch.diag_embed(1e-4 * free_BSN.sum(2).clamp(min=1)[..., None].expand(-1, -1, 4))
    weight_BSN = free_BSN
    for last in [False] * _ROUNDS + [True]:
        normal_BS44 = (weight_BSN @ pairs_BN16).unflatten(-1, (4, 4)) + ridge_BS44
        fit_BS4 = torch.linalg.solve(normal_BS44, (weight_BSN[..., None] * along_BSN4).sum(2))
        if last:
            break
        with torch.no_grad():
            explained_BSN = (fit_BS4[..., None] * fit_BS4[..., None, :]).flatten(2) @ pairs_BN16.mT
            left_BSN = (
                (size_BSN - 2 * (along_BSN4 @ fit_BS4[..., None])[..., 0] + explained_BSN).clamp(min=0).div(3).sqrt()
            )
            usual = (weight_BSN * left_BSN).sum(2, keepdim=True) / weight_BSN.sum(2, keepdim=True).clamp(min=1e-6)
            away_BSN = left_BSN / (2 * usual.clamp(min=_LEAST_RESIDUAL))
            weight_BSN = free_BSN / (1 + away_BSN.square()).square()
    return fit_BS4, (free_BSN.sum(2) > 0).any(1)


def _basis(first_BCHW: Tensor) -> Tensor:
    """What a shift to the right, one down, a blur and a gain of one unit add to the picture, (B, C, H, W, 4)."""
    height, width = first_BCHW.shape[-2:]
    padded = F.pad(first_BCHW, (1,) * 4, mode="replicate")
    left, right = padded[..., 1:-1, :width], padded[..., 1:-1, 2:]
    above, below = padded[..., :height, 1:-1], padded[..., 2:, 1:-1]
    laplace = left + right + above + below - 4 * first_BCHW
    return torch.stack(((left - right) / 2, (above - below) / 2, laplace / 2, first_BCHW), dim=-1)


def _smoothed(frames_BTCHW: Tensor) -> Tensor:
    """By 1/4, 1/2, 1/4 along both axes: the model is linear over about a pixel then."""
    padded = F.pad(frames_BTCHW.flatten(0, 1), (1,) * 4, mode="replicate")
    across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return ((across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 16).view_as(frames_BTCHW)


def _root(squared: Tensor) -> Tensor:
    return (squared + 1e-12).sqrt()

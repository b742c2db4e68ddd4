"""Monocular depth of clips, metric or relative, as one differentiable interface over several networks.

Two conventions exist among depth networks. METRIC: z-depth in metres, larger is farther. RELATIVE (Depth Anything's):
inverse depth up to an unknown scale and shift, larger is NEARER; align it once per clip with `align_inverse_depth`,
never frame by frame, since that would hide the motion.

Axes: B clips, T frames, N = B T frames, C colours (3), H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reward_physics.camera import Camera
from reward_physics.estimators.depth_net import DepthNet, Layers
from reward_physics.estimators.flow import check_frames
from reward_physics.estimators.weights import freeze

_OUTLINE_PX, _SIZE_SHARE = 0.06, 0.13


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Depth of every pixel of a batch of clips."""

    depth_BTHW: Tensor
    """Metric: z-depth of the visible surface, metres, > 0. Relative: inverse depth without scale, larger is nearer."""
    metric: bool
    mask_logits_BTHW: Tensor | None = None
    """Positive on foreground objects, shadows not included; None where the network has no mask."""
    object_depth_BTHW: Tensor | None = None
    """Metres; the object's own depth, smooth across its edge and meaningful under the mask; None where unknown."""


class DepthEstimator(nn.Module):
    """A frozen depth network for clips; gradients flow to the frames."""

    metric: bool

    def train(self, mode: bool = True) -> DepthEstimator:
        """Stays in evaluation mode whatever is asked."""
        return super().train(False)

    def forward(self, frames_BTCHW: Tensor, camera: Camera | None = None) -> Depth:
        """Depth of every frame.

        Args:
            frames_BTCHW: colours in [0, 1].
            camera: of the clips, used by networks that are conditioned on it and ignored by the others.
        """
        raise NotImplementedError

    def size_sd(self, radius_m_B: Tensor, radius_px_B: Tensor, short_side_px: int) -> Tensor:
        """Relative standard error (B,) of an object's distance that its size alone brings; none is known of here.

        Args:
            radius_m_B: the object's radius, m, as it was read.
            radius_px_B: the same in the picture, px.
            short_side_px: shorter side of the picture.
        """
        return torch.zeros_like(radius_m_B)


class EmbeddedDepth(DepthEstimator):
    """The toolkit's own network: metric depth and object masks of whole clips of the embedded world.

    It is conditioned on the camera, and takes the floor to be the plane z = 0. Frames whose shorter side is not
    `side_px` are resized to it, the size it was trained at.
    """

    metric = True
    known_radius_m = (0.16, 0.38)
    """Of the objects in the clips that it was trained on (`varied` in `data/drops/scenes.py`)."""

    def __init__(self, net: DepthNet, *, side_px: int = 64, autocast: bool = False) -> None:
        super().__init__()
        self.net, self.side_px, self.autocast = net, side_px, autocast
        freeze(self)

    def forward(self, frames_BTCHW: Tensor, camera: Camera | None = None) -> Depth:
        check_frames(frames_BTCHW, "depth")
        height, width = frames_BTCHW.shape[-2:]
        scale = self.side_px / min(height, width)
        size = (round(height * scale), round(width * scale))
        working = resized(frames_BTCHW, size)
        with torch.autocast(working.device.type, torch.bfloat16, enabled=self.autocast):
            layers: Layers = self.net(working, camera)
        return Depth(
            depth_BTHW=resized(layers.log_depth_BTHW.exp(), (height, width)),
            metric=True,
            mask_logits_BTHW=resized(layers.mask_logits_BTHW, (height, width)),
            object_depth_BTHW=resized(layers.object_log_depth_BTHW.exp(), (height, width)),
        )

    def size_sd(self, radius_m_B: Tensor, radius_px_B: Tensor, short_side_px: int) -> Tensor:
        """What few pixels and an unknown size add to the error of a distance:

            (0.06 px / r)^2 + (0.13 ln(R / R_known))^2,

        with r the radius in the picture that the network sees, and R_known the nearest radius that it was trained on.
        Both were read off 192 simulated clips of balls of 6 to 40 px that no table shows.
        """
        seen_px = radius_px_B * (self.side_px / short_side_px)
        beyond = (radius_m_B / radius_m_B.clamp(*self.known_radius_m)).log()
        return ((_OUTLINE_PX / seen_px.clamp(min=0.5)).square() + (_SIZE_SHARE * beyond).square()).sqrt()


def resized(maps_BTHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps or frames (B, T, ..., H, W) at another size, bilinear and antialiased; unchanged where they have it."""
    if tuple(maps_BTHW.shape[-2:]) == size:
        return maps_BTHW
    flat = maps_BTHW.reshape(-1, 1, *maps_BTHW.shape[-2:])
    out = F.interpolate(flat, size=size, mode="bilinear", align_corners=False, antialias=True)
    return out.view(*maps_BTHW.shape[:-2], *size)


def align_inverse_depth(inverse_BTHW: Tensor, reference_m_BTHW: Tensor, weight_BTHW: Tensor | None = None) -> Tensor:
    """Relative inverse depth brought to metres with ONE scale and ONE shift per clip.

    Least squares over all frames of a clip:  1 / z = scale d + shift.

    Args:
        inverse_BTHW: relative depth, larger is nearer.
        reference_m_BTHW: metres where known, > 0, for instance the known floor; anything where the weight is 0.
        weight_BTHW: >= 0, what each pixel counts; all alike by default.

    Returns: z-depth in metres. The fitted scale and shift carry no gradient; the depth does. Inverse depths of 1e-3 /
    m and
        below, farther than a kilometre, come back as a kilometre.
    """
    weight = torch.ones_like(inverse_BTHW) if weight_BTHW is None else weight_BTHW
    d = inverse_BTHW.detach().double().flatten(1)
    w = weight.detach().double().flatten(1)
    target = torch.where(w > 0, 1 / reference_m_BTHW.detach().double().flatten(1).clamp(min=1e-3), 0.0)
    total = w.sum(dim=1).clamp(min=1e-12)
    mean_d, mean_t = (w * d).sum(dim=1) / total, (w * target).sum(dim=1) / total
    centred = d - mean_d[:, None]
    spread = (w * centred.square()).sum(dim=1)
    scale = (w * centred * target).sum(dim=1) / spread.clamp(min=1e-12)
    shift = mean_t - scale * mean_d
    scale, shift = (x.to(inverse_BTHW.dtype).view(-1, 1, 1, 1) for x in (scale, shift))
    return 1 / (scale * inverse_BTHW + shift).clamp(min=1e-3)

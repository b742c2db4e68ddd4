"""Generic image pairs with exact optical flow: procedural textures on moving, overlapping, slightly deforming layers.

They teach a flow network that flow is matching, so that it does not merely detect the objects of one small world.
Every layer k has a texture, a shape and a displacement u_k(x), all given in closed form. The second image shows the
layer as it is, the first shows it pulled back:

    I2(y) = texture_k(y),   I1(x) = texture_k(x + u_k(x)),   shape likewise

so the flow from the first to the second image is u_k(x) exactly, and a point is occluded exactly where a layer in front
covers x + u_k(x). Textures live on the pixel grid of the second image, so bilinear lookups agree as well.

Axes: B pairs, C colours (3), H rows, W columns, 2 = (right, down) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

MARGIN_PX = 32
"""How far a texture reaches beyond the image; lookups further out mirror."""


@dataclass(frozen=True, kw_only=True)
class WarpRanges:
    """What is drawn; all intervals are uniform."""

    size_px: int = 128
    """Height and width of the images."""
    objects: int = 4
    """Most moving shapes in front of the background; 1 to this many are drawn."""
    radius_px: tuple[float, float] = (5.0, 36.0)
    """Size of a shape, drawn uniformly in the logarithm."""
    object_shift_px: float = 14.0
    """Largest displacement of a shape along each axis."""
    background_shift_px: float = 8.0
    """Largest displacement of the background along each axis; a third of the pairs have a still background."""
    affine: float = 0.08
    """Largest entry of the linear part of a displacement, px a px: rotation, zoom, shear."""
    smooth_px: float = 1.0
    """Largest amplitude of each of two smooth waves added to a displacement."""

    def __post_init__(self) -> None:
        if self.size_px < 16:
            raise ValueError(f"warp size_px must be >= 16, got {self.size_px}")
        if self.objects < 1:
            raise ValueError(f"warp objects must be >= 1, got {self.objects}")
        low, high = self.radius_px
        if not 0 < low <= high:
            raise ValueError(f"warp radius_px must be 0 < low <= high, got {self.radius_px}")


@dataclass(frozen=True, kw_only=True)
class WarpPairs:
    """Image pairs and their truth."""

    first_BCHW: Tensor
    """First images, [0, 1]."""
    second_BCHW: Tensor
    """Second images, [0, 1]."""
    flow_BHW2: Tensor
    """Exact displacement of every pixel of the first image, px."""
    visible_BHW: Tensor
    """1 where the pixel's target lies inside the second image and nothing covers it, else 0."""


def draw_warps(count: int, generator: Generator, ranges: WarpRanges | None = None) -> WarpPairs:
    """Draw `count` image pairs on the CPU; the same generator state gives the same pairs."""
    ranges = ranges or WarpRanges()
    size = ranges.size_px
    axis = torch.arange(size) + 0.5
    x_BHW2 = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).expand(count, size, size, 2)
    layers = [_draw_layer(count, generator, ranges, background=k == 0) for k in range(ranges.objects + 1)]
    first = second = torch.zeros(count, 3, size, size)
    flow = torch.zeros(count, size, size, 2)
    owner = torch.zeros(count, size, size, dtype=torch.long)
    for k, layer in enumerate(layers):
        shift = layer.displacement(x_BHW2)
        alpha = layer.alpha(x_BHW2 + shift)
        first = torch.lerp(first, layer.colour(x_BHW2 + shift), alpha[:, None])
        second = torch.lerp(second, layer.colour(x_BHW2), layer.alpha(x_BHW2)[:, None])
        flow = torch.where((alpha > 0.5)[..., None], shift, flow)
        owner = torch.where(alpha > 0.5, k, owner)
    visible = _visible(layers, owner, x_BHW2 + flow, size)
    return WarpPairs(first_BCHW=first, second_BCHW=second, flow_BHW2=flow, visible_BHW=visible)


def _visible(layers: list[_Layer], owner_BHW: Tensor, target_BHW2: Tensor, size: int) -> Tensor:
    inside = ((target_BHW2 > 0) & (target_BHW2 < size)).all(dim=-1)
    for k, layer in enumerate(layers):
        inside &= ~((layer.alpha(target_BHW2) > 0.5) & (owner_BHW < k))
    return inside.float()


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One surface: texture, shape (in the second image's coordinates) and displacement."""

    texture_BCHW: Tensor
    centre_B2: Tensor
    axes_B22: Tensor
    """Rows map an offset from the centre to the shape's own axes, 1 / px."""
    power_B: Tensor
    """Exponent of the superellipse: 2 is an ellipse, 8 almost a rectangle."""
    radius_B: Tensor
    """Typical radius in px; 0 for an absent shape, infinite for the background."""
    shift_B2: Tensor
    linear_B22: Tensor
    wave_B2K2: Tensor
    """Wave vectors of the smooth part, 1 / px: axis, wave, component."""
    amplitude_B2K: Tensor
    phase_B2K: Tensor

    def displacement(self, x_BHW2: Tensor) -> Tensor:
        """u(x) = shift + linear (x - centre) + sum of sine waves, px."""
        offset = x_BHW2 - self.centre_B2[:, None, None]
        affine = torch.einsum("bij,bhwj->bhwi", self.linear_B22, offset) + self.shift_B2[:, None, None]
        angle = torch.einsum("baki,bhwi->bhwak", self.wave_B2K2, offset) + self.phase_B2K[:, None, None]
        return affine + (self.amplitude_B2K[:, None, None] * angle.sin()).sum(dim=-1)

    def alpha(self, y_BHW2: Tensor) -> Tensor:
        """Coverage in [0, 1]: a superellipse with an edge about a pixel wide."""
        offset = y_BHW2 - self.centre_B2[:, None, None]
        own = torch.einsum("bij,bhwj->bhwi", self.axes_B22, offset).abs().clamp(min=1e-6, max=1e3)
        power = self.power_B[:, None, None]
        distance = (own ** power[..., None]).sum(dim=-1) ** (1 / power)
        radius = self.radius_B[:, None, None]
        soft = torch.sigmoid((1 - distance) * radius * 2)
        return torch.where(radius.isinf(), 1.0, torch.where(radius > 0, soft, 0.0))

    def colour(self, y_BHW2: Tensor) -> Tensor:
        """Bilinear lookup, (B, 3, H, W)."""
        span = self.texture_BCHW.shape[-1]
        grid = (y_BHW2 + MARGIN_PX) / span * 2 - 1
        return F.grid_sample(self.texture_BCHW, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _draw_layer(count: int, g: Generator, ranges: WarpRanges, *, background: bool) -> _Layer:
    size = ranges.size_px
    low, high = ranges.radius_px
    radius = low * (high / low) ** torch.rand(count, generator=g)
    aspect = 0.6 + 0.8 * torch.rand(count, 2, generator=g)
    turn = 2 * torch.pi * torch.rand(count, generator=g)
    rotation = torch.stack((turn.cos(), turn.sin(), -turn.sin(), turn.cos()), dim=-1).view(count, 2, 2)
    present = torch.rand(count, generator=g) < 0.7
    still = torch.rand(count, generator=g) < 1 / 3
    largest = ranges.background_shift_px if background else ranges.object_shift_px
    moves = torch.where(still & torch.tensor(background), 0.0, 1.0)
    deforms = moves * (torch.rand(count, generator=g) < 0.6)
    return _Layer(
        texture_BCHW=draw_textures(count, g, size + 2 * MARGIN_PX),
        centre_B2=size * (0.1 + 0.8 * torch.rand(count, 2, generator=g)),
        axes_B22=rotation / (radius[:, None] * aspect)[..., None],
        power_B=2 * 4 ** torch.rand(count, generator=g),
        radius_B=torch.full((count,), torch.inf) if background else torch.where(present, radius, 0.0),
        shift_B2=moves[:, None] * largest * _signed(count, 2, g=g) * torch.rand(count, 1, generator=g),
        linear_B22=deforms[:, None, None] * ranges.affine * _signed(count, 2, 2, g=g),
        wave_B2K2=0.1 * _signed(count, 2, 2, 2, g=g),
        amplitude_B2K=deforms[:, None, None] * ranges.smooth_px * _signed(count, 2, 2, g=g),
        phase_B2K=2 * torch.pi * torch.rand(count, 2, 2, generator=g),
    )


def draw_textures(count: int, g: Generator, size_px: int) -> Tensor:
    """Random colour textures (count, 3, size, size) in [0, 1]: noise of several octaves, cells and checkers, mixed."""
    base = torch.rand(count, 3, 1, 1, generator=g)
    noise = torch.zeros(count, 3, size_px, size_px)
    for cells in (3, 9, 27, 81):
        coarse = _signed(count, 3, cells, cells, g=g)
        strength = 0.5 * torch.rand(count, 1, 1, 1, generator=g)
        noise += strength * F.interpolate(coarse, size=(size_px, size_px), mode="bilinear", align_corners=False)
    mixed = base + torch.rand(count, 1, 1, 1, generator=g) * noise
    return (mixed + _cells(count, g, size_px) + _checkers(count, g, size_px)).clamp(0, 1)


def _cells(count: int, g: Generator, size_px: int, points: int = 12) -> Tensor:
    """Polygons of even colour: the Voronoi cells of random points."""
    axis = torch.linspace(0, 1, size_px)
    where = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).view(1, -1, 2)
    nearest = torch.cdist(where.expand(count, -1, 2), torch.rand(count, points, 2, generator=g)).argmin(dim=-1)
    colour = _signed(count, points, 3, g=g) * _sometimes(count, 0.5, g).view(count, 1, 1) * 0.5
    picked = colour.gather(1, nearest[..., None].expand(-1, -1, 3))
    return picked.view(count, size_px, size_px, 3).permute(0, 3, 1, 2)


def _checkers(count: int, g: Generator, size_px: int) -> Tensor:
    """Two-coloured parallelograms of 4 px to a quarter of the image, with edges about a pixel wide."""
    axis = torch.arange(size_px) + 0.5
    x = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
    period = 4 * (size_px / 16) ** torch.rand(count, 2, generator=g)
    turn = 2 * torch.pi * torch.rand(count, generator=g)
    turns = torch.stack((turn, turn + 1.2 + 0.8 * torch.rand(count, generator=g)), dim=-1)
    phase = torch.einsum("bkc,chw->bkhw", torch.stack((turns.cos(), turns.sin()), -1), x) / period[..., None, None]
    board = torch.tanh((torch.pi * phase).sin() * period[..., None, None]).prod(dim=1, keepdim=True)
    strength = 0.4 * _signed(count, 3, g=g) * _sometimes(count, 0.4, g)[:, None]
    return strength[..., None, None] * board


def _signed(*shape: int, g: Generator) -> Tensor:
    return torch.rand(*shape, generator=g) * 2 - 1


def _sometimes(count: int, probability: float, g: Generator) -> Tensor:
    return (torch.rand(count, generator=g) < probability).float()

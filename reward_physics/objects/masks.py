"""Which pixels are the object: soft masks in [0, 1].

Three ways, each used by the finder of its name: `segmenter` (a network's logits), `propagated` (the known first mask
carried along by the flow) and `appearance` (classical: the object's colours in the first frame against a clean
background plate; it shares nothing with the segmenter, so that it can serve a judge). What moves against the
background is found in `reward_physics.objects.motion`.

Axes: B clips, T frames, S pairs of frames, C colours, H rows, W columns, K colours of the object.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_physics.grid import pixel_grid

_OBJECT_COLOURS = 6
_TOLERANCE = 0.06


def segmenter(mask_logits_BTHW: Tensor) -> Tensor:
    """Mask of a segmentation network: sigmoid(logits), (B, T, H, W)."""
    return torch.sigmoid(mask_logits_BTHW)


def propagated(first_mask_BHW: Tensor, flow_BSHW2: Tensor) -> Tensor:
    """The first frame's mask carried from frame to frame by the flow: m_t(x) = m_{t-1}(x - f_{t-1}(x)).

    The flow at the pixel's new place stands for the flow at its old one, which is exact for a motion that is the same
    across the object; so the displacement inside the mask is spread outwards before it is used.

    Args:
        first_mask_BHW: {0, 1}.
        flow_BSHW2: flow from each frame to the next (stride 1), px, S = T - 1.

    Returns:
        (B, T, H, W), differentiable in the flow.
    """
    batch, pairs, height, width, _ = flow_BSHW2.shape
    uv_HW2, mask = pixel_grid(height, width, like=flow_BSHW2), first_mask_BHW.to(flow_BSHW2)
    masks = [mask]
    scale = flow_BSHW2.new_tensor([2.0 / width, 2.0 / height])
    for s in range(pairs):
        weight = mask.detach()
        moved = (flow_BSHW2[:, s] * weight[..., None]).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6)[:, None]
        source = uv_HW2 - moved[:, None, None]
        mask = F.grid_sample(mask[:, None], source * scale - 1, align_corners=False)[:, 0]
        masks.append(mask)
    return torch.stack(masks, dim=1)


def by_appearance(frames_BTCHW: Tensor, first_mask_BHW: Tensor) -> Tensor:
    """Soft foreground by colour, against a background plate and the object's own palette.

    The plate is the first frame outside the (dilated) object, and the median of the later frames under it. Light
    changes brightness and keeps chroma, so both sides are line segments through black: s B with s in [0.3, 1.9]
    (cast shadows, and light where a shadow of the first frame has moved away) and s F with s in [0.75, 1.25]
    (shading). With d_B and d_F the distances of a pixel's colour to the nearest point of either, less a tolerance,

        alpha = d_B / (d_B + d_F),

    which is the exact share of a pixel that the edge of the object cuts, c = alpha F + (1 - alpha) B.

    Args:
        frames_BTCHW: colours in [0, 1].
        first_mask_BHW: 1 on the object in the first frame.

    Returns:
        (B, T, H, W) in [0, 1], differentiable in the frames.
    """
    with torch.no_grad():
        palette_BKC = object_colours(frames_BTCHW[:, 0].detach(), first_mask_BHW)
        plates = background_plates(frames_BTCHW.detach(), first_mask_BHW, palette_BKC)
    to_plate = torch.minimum(*(_distance_to_shades(frames_BTCHW, plate[:, None], 0.3, 1.9) for plate in plates))
    to_object = _distance_to_palette(frames_BTCHW, palette_BKC)
    return to_plate / (to_plate + to_object + 1e-3)


def background_plates(frames_BTCHW: Tensor, first_mask_BHW: Tensor, palette_BKC: Tensor) -> tuple[Tensor, Tensor]:
    """What the scene looks like without its object, (B, C, H, W): in the first frame, and usually.

    The second is the median of the colours that are unlike the object's. The first is the first frame, with the second
    under the (dilated) object; where the object never leaves, the mean of the surroundings in the same rows.
    """
    first = frames_BTCHW[:, 0]
    near = F.max_pool2d(first_mask_BHW[:, None].to(first), 5, stride=1, padding=2) > 0.5
    free = (_distance_to_palette(frames_BTCHW, palette_BKC) > 0.06)[:, :, None]
    median = torch.nan_to_num(torch.where(free, frames_BTCHW, torch.nan).nanmedian(dim=1).values)
    known = free.sum(1) >= 3
    usual = torch.where(known, median, first)
    plate = torch.where(near, median, first)
    share_of = torch.where(near, known, torch.ones_like(known)).to(first)
    side = first.shape[-1] // 6
    share = F.avg_pool2d(share_of, (3, 2 * side + 1), stride=1, padding=(1, side))
    around = F.avg_pool2d(plate * share_of, (3, 2 * side + 1), stride=1, padding=(1, side)) / share.clamp(min=1e-6)
    filled = torch.where(share_of > 0.5, plate, torch.where(share > 0, around, first))
    return filled, torch.where(near & ~known, filled, usual)


def object_colours(frame_BCHW: Tensor, mask_BHW: Tensor) -> Tensor:
    """The object's palette, (B, K, C): colours far apart from each other, then their neighbourhoods' means."""
    batch, channels = frame_BCHW.shape[:2]
    inner = eroded(mask_BHW[:, None].to(frame_BCHW))[:, 0]
    enough = (inner.sum((1, 2)) >= 4)[:, None, None]
    weight = torch.where(enough, inner, mask_BHW.to(inner)).flatten(1)
    pixels = frame_BCHW.flatten(2).mT
    mean = (pixels * weight[..., None]).sum(1) / weight.sum(1).clamp(min=1e-6)[:, None]
    centres, clips = [mean], torch.arange(batch, device=mean.device)
    for _ in range(_OBJECT_COLOURS - 1):
        distance = torch.stack([(pixels - c[:, None]).square().sum(-1) for c in centres]).amin(0)
        # Inside the mask only; a plain mask of zeros falls back to the mean.
        pick = torch.where(weight > 0.5, distance, -torch.ones_like(distance)).argmax(1)
        centres.append(torch.where((weight.sum(1) > 0)[:, None], pixels[clips, pick], mean))
    palette = torch.stack(centres, dim=1)
    for _ in range(3):
        distance = (pixels[:, :, None] - palette[:, None]).square().sum(-1)
        member = F.one_hot(distance.argmin(-1), _OBJECT_COLOURS).to(pixels) * weight[..., None]
        total = member.sum(1)
        means = (member.mT @ pixels) / total.clamp(min=1e-6)[..., None]
        palette = torch.where(total[..., None] > 0.5, means, palette)
    return palette


def eroded(mask_N1HW: Tensor) -> Tensor:
    """Grey erosion by one pixel: the least of each 3 x 3 neighbourhood; outside the image counts as background."""
    padded = F.pad(1 - mask_N1HW, (1, 1, 1, 1), value=1.0)
    return 1 - F.max_pool2d(padded, 3, stride=1)


def _distance_to_shades(colour: Tensor, base: Tensor, darkest: float, lightest: float) -> Tensor:
    """Distance of colours (B, T, C, H, W) to the segment of `base` from darkest to lightest, less a tolerance."""
    shade = (colour.detach() * base).sum(2, keepdim=True) / base.square().sum(2, keepdim=True).clamp(min=1e-4)
    return _tolerant((colour - shade.clamp(darkest, lightest) * base).square().sum(2))


def _distance_to_palette(colour: Tensor, palette_BKC: Tensor) -> Tensor:
    """Distance of colours (B, T, C, H, W) to the nearest of the palette's colours at 0.75 to 1.25 of its brightness."""
    norm = palette_BKC.square().sum(-1).clamp(min=1e-4)[:, None, :, None, None]
    product = torch.einsum("btchw,bkc->btkhw", colour.detach(), palette_BKC)
    shade = (product / norm).clamp(0.75, 1.25)
    nearest = (shade.square() * norm - 2 * shade * product).argmin(2, keepdim=True)
    shade = shade.gather(2, nearest)
    chosen = palette_BKC[torch.arange(len(palette_BKC), device=nearest.device)[:, None, None, None], nearest[:, :, 0]]
    return _tolerant((colour - shade * chosen.movedim(-1, 2)).square().sum(2))


def _tolerant(squared: Tensor) -> Tensor:
    return (squared + 1e-8).sqrt().sub(_TOLERANCE).clamp(min=0)

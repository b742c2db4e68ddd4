"""Train the embedded depth network on rendered clips: `python -m trainers.pretrain.depth --output_dir runs/depth`.

A batch holds some frames of each of its clips, zoomed, mirrored and recoloured at random; a share of the batches holds
the first frame alone, of more clips, since a distance may have to be read there. One clip in ten comes without its
camera. The loss counts every pixel's |log depth error|, and on top the errors that decide a measured
acceleration: of the object's pixels, of its mean in a frame and of its mean over the clip.

The judge's network (`--variant judge`) has another backbone and other widths.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from reward_physics.camera import Camera
from reward_physics.estimators.depth_net import DepthNet, DepthShape, Layers, geometry_channels
from trainers.pretrain.clips import Clips, read_clips
from trainers.pretrain.common import pretraining_parser
from trainers.pretrain.training import Training, add_training_flags

VARIANTS = {
    "embedded": DepthShape(),
    "judge": DepthShape(backbone="regnety_002", width=96, decoder=(80, 56, 32)),
}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Frames of clips as the network takes them, and their truth. B clips, T frames."""

    frames_BTCHW: Tensor
    geometry_BCHW: Tensor
    log_height_B: Tensor
    numbers_T: Tensor
    log_depth_BTHW: Tensor
    object_BTHW: Tensor
    """1 on any object."""
    inside_BHW: Tensor
    """0 where a zoom shows what the clip does not."""


def draw_batch(clips: Clips, count: int, frames: int, generator: Generator, *, first_share: float = 0.0) -> Batch:
    """`frames` random frames (the same numbers for all) of `count` random clips; in a share of the batches the first
    frame alone of as many clips as make the same number of images."""
    numbers = torch.randperm(clips.frames_NTHW3.shape[1], generator=generator)[:frames].sort().values
    if first_share and torch.rand((), generator=generator) < first_share:
        count, frames, numbers = count * frames, 1, torch.zeros(1, dtype=torch.long)
    index = torch.randint(len(clips), (count,), generator=generator)
    pick = (index[:, None], numbers[None])
    colours = clips.frames_NTHW3[pick].permute(0, 1, 4, 2, 3).float() / 255
    truth = torch.stack((clips.depth_NTHW[pick].float().log(), (clips.mask_NTHW[pick] > 0).float()), dim=2)
    height, width = colours.shape[-2:]

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    zooms = rand(count) < 0.7
    span = torch.where(zooms, 0.8 + 0.45 * rand(count), 1.0)
    shift = zooms[:, None] * (0.1 + (1 - span).abs()[:, None]) * (2 * rand(count, 2) - 1)
    grid = zoom_grid(span, shift, height, width)
    flat = grid[:, None].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    colours = F.grid_sample(colours.flatten(0, 1), flat, padding_mode="border", align_corners=False)
    truth = F.grid_sample(truth.flatten(0, 1), flat, mode="nearest", padding_mode="border", align_corners=False)
    camera = Camera(
        intrinsics_B33=zoomed_intrinsics(clips.intrinsics_N33[index], span, shift, height, width),
        world_from_camera_B44=clips.world_from_camera_N44[index],
        height_px=height,
        width_px=width,
    )
    geometry, log_height = geometry_channels(camera, colours[:count, None])
    known = (rand(count) < 0.9).float()
    mirrored = rand(count) < 0.5
    geometry = torch.where(mirrored.view(-1, 1, 1, 1), mirror(geometry), geometry) * known.view(-1, 1, 1, 1)
    colours, truth = (x.unflatten(0, (count, frames)) for x in (colours, truth))
    colours, truth = (torch.where(mirrored.view(-1, 1, 1, 1, 1), x.flip(-1), x) for x in (colours, truth))
    inside = (grid.abs() <= 1).all(dim=-1)
    return Batch(
        frames_BTCHW=recoloured(colours, generator),
        geometry_BCHW=geometry,
        log_height_B=log_height * known,
        numbers_T=numbers,
        log_depth_BTHW=truth[:, :, 0],
        object_BTHW=truth[:, :, 1],
        inside_BHW=torch.where(mirrored.view(-1, 1, 1), inside.flip(-1), inside).float(),
    )


def zoom_grid(span_B: Tensor, shift_B2: Tensor, height: int, width: int) -> Tensor:
    """Where to sample an image so that a window of `span` of its side, off centre by `shift` half sides, fills it."""
    matrix = torch.diag_embed(span_B[:, None].expand(-1, 2))
    matrix = torch.cat((matrix, shift_B2[..., None]), dim=-1)
    return F.affine_grid(matrix, [len(span_B), 1, height, width], align_corners=False)


def zoomed_intrinsics(k_B33: Tensor, span_B: Tensor, shift_B2: Tensor, height: int, width: int) -> Tensor:
    """Intrinsics of the window: u' = (u - u0) / span with u0 its left edge, and rows likewise."""
    size = torch.tensor([width, height], dtype=k_B33.dtype)
    edge_B2 = size / 2 * (1 + shift_B2 - span_B[:, None])
    k = k_B33.clone()
    k[:, :2, 2] -= edge_B2
    k[:, :2] /= span_B.view(-1, 1, 1)
    return k


def mirror(geometry_BCHW: Tensor) -> Tensor:
    """The geometry of a scene seen in a mirror: columns reversed, the rays' x negated."""
    return geometry_BCHW.flip(-1) * torch.tensor([1.0, -1.0, 1.0, 1.0]).view(1, 4, 1, 1)


def recoloured(frames_BTCHW: Tensor, generator: Generator) -> Tensor:
    """Other hues, brightness and contrast for each clip, a little blur and noise, as a decoder's images have."""
    batch = frames_BTCHW.shape[0]

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    order = torch.stack([torch.randperm(3, generator=generator) for _ in range(batch)])
    frames = torch.stack([frames_BTCHW[b][:, order[b]] for b in range(batch)])
    gain = 1 + 0.25 * (2 * rand(batch, 1, 3, 1, 1) - 1)
    frames = (frames - 0.5) * gain + 0.5 + 0.1 * (2 * rand(batch, 1, 3, 1, 1) - 1)
    padded = F.pad(frames.flatten(0, 1), (1, 1, 1, 1), mode="replicate")
    soft = F.avg_pool2d(padded, 3, stride=1).view_as(frames)
    frames = torch.lerp(frames, soft, 0.7 * rand(batch, 1, 1, 1, 1) * (rand(batch, 1, 1, 1, 1) < 0.4))
    level = 0.04 * rand(batch, 1, 1, 1, 1) ** 2
    return (frames + level * torch.randn(frames.shape, generator=generator)).clamp(0, 1)


def depth_loss(layers: Layers, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """|log z error| of all pixels, object pixels, the object's mean in a frame and over the clip; and the mask's loss.

    The mask's loss is cross entropy, overlap (dice) and the drift of its centroid, from which motion is measured.

    Returns: the loss, and AbsRel, the clip's mean object bias, the mask's IoU and its centroid's drift in this batch.
    """
    inside = batch.inside_BHW[:, None]
    front = batch.object_BTHW * inside
    behind = (1 - batch.object_BTHW) * inside
    object_error = (layers.object_log_depth_BTHW - batch.log_depth_BTHW) * front
    behind_error = (layers.background_log_depth_BTHW - batch.log_depth_BTHW) * behind
    area_BT = front.sum(dim=(2, 3))
    in_frame = object_error.sum(dim=(2, 3)) / area_BT.clamp(min=1)
    over_clip = in_frame.sum(dim=1) / (area_BT > 0).sum(dim=1).clamp(min=1)
    joined = (layers.log_depth_BTHW - batch.log_depth_BTHW) * inside
    depth = (
        behind_error.abs().sum() / behind.sum()
        + 0.5 * joined.abs().sum() / inside.expand_as(front).sum()
        + object_error.abs().sum() / front.sum().clamp(min=1)
        + 2 * (in_frame.abs() + 10 * in_frame.square()).sum() / (area_BT > 0).sum().clamp(min=1)
        + 2 * over_clip.abs().mean()
    )
    logits, target = layers.mask_logits_BTHW, batch.object_BTHW
    soft = torch.sigmoid(logits) * inside
    cross = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * inside).mean()
    dice = 1 - (2 * (soft * front).sum(dim=(1, 2, 3)) + 1) / (soft.sum(dim=(1, 2, 3)) + front.sum(dim=(1, 2, 3)) + 1)
    with torch.no_grad():
        hard = (logits > 0) * inside
        either = ((hard + front) > 0).sum()
        values = {
            "abs_rel": float((joined.exp() - 1).abs().sum() / inside.expand_as(front).sum()),
            "object_bias": float(over_clip.abs().median()),
            "iou": float((hard * front).sum() / either.clamp(min=1)),
        }
    drift_px = (centroid_px(soft) - centroid_px(front)).abs().sum(dim=-1)[area_BT > 0].mean()
    values["centroid_px"] = float(drift_px.detach())
    return depth + 4 * cross + 0.3 * dice.mean() + 0.15 * drift_px, values


def centroid_px(mask_BTHW: Tensor) -> Tensor:
    """Mean position (column, row) of a soft mask, px, (B, T, 2); the image's corner for an empty one."""
    height, width = mask_BTHW.shape[-2:]
    total = mask_BTHW.sum(dim=(2, 3)).clamp(min=1e-3)
    u = (mask_BTHW.sum(dim=2) * torch.arange(width)).sum(dim=-1) / total
    v = (mask_BTHW.sum(dim=3) * torch.arange(height)).sum(dim=-1) / total
    return torch.stack((u, v), dim=-1)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = pretraining_parser("depth", __doc__, steps=5600, batch_size=10, learning_rate=2e-3)
    add_training_flags(parser)
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="embedded", help="which network")
    parser.add_argument("--frames", type=int, default=5, help="frames of each clip in a batch (default: %(default)s)")
    parser.add_argument(
        "--first_share", type=float, default=0.3, help="share of batches of first frames alone (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, and export the averaged weights."""
    options = parse(arguments)
    torch.set_num_threads(options.num_threads)
    torch.manual_seed(options.seed)
    net = DepthNet(VARIANTS[options.variant])
    training = Training(options, net)
    clips = None
    for step in training.steps():
        if clips is None or (step % 200 == 0 and len(clips) < options.max_clips):
            clips = read_clips(options.data, options.max_clips)
            if clips is None:
                raise ValueError(f"depth: no clips in {options.data}: write some with `python -m data.write`")
        batch = draw_batch(
            clips, options.batch_size, options.frames, training.generator, first_share=options.first_share
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            layers = net.from_geometry(batch.frames_BTCHW, batch.geometry_BCHW, batch.log_height_B, batch.numbers_T)
        training.update(*depth_loss(layers, batch))
    training.export(VARIANTS[options.variant].to_config(), {})


if __name__ == "__main__":
    main()

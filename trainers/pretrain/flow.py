"""Train RAFT on pairs of drops and on generic warps: `python -m trainers.pretrain.flow --output_dir runs/flow`.

Half of every batch are neighbouring frames of rendered clips, enlarged as `FlowEstimator` enlarges them; the other
half are `data.warps`, so that the network matches textures and does not merely know these objects. While no clip has
been rendered yet, all are warps. The loss is RAFT's: the L1 error of the flow after every update, later ones weighing
more, with the error on moving pixels and of each object's mean added, since those decide a measured acceleration. A
share of the batches are larger warps: on small images the coarse levels of RAFT's correlation pyramid lie mostly
outside, and a network that never saw them filled diverges on photographs.

The judge's network (`--variant judge`) has other widths and learned upsampling.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision.models.optical_flow.raft import RAFT

from data.warps import WarpRanges, draw_warps
from reward_physics.estimators.flow import RaftShape, enlarged, match
from trainers.pretrain.clips import Clips, read_clips
from trainers.pretrain.common import pretraining_parser
from trainers.pretrain.training import Training, add_training_flags

VARIANTS = {
    "embedded": RaftShape(),
    "judge": RaftShape(
        feature_layers=(24, 24, 48, 80, 96),
        context_layers=(24, 24, 48, 80, 144),
        corr_layers=(80,),
        flow_layers=(48, 24),
        motion_channels=72,
        hidden_channels=80,
        head_channels=96,
        convex_upsampling=True,
    ),
}

GAMMA = 0.8
"""Weight of an update relative to the next."""

MOVING_PX = 0.25
"""A pixel moves when its displacement at the network's working size is above this."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Image pairs at working size."""

    first_BCHW: Tensor
    second_BCHW: Tensor
    flow_B2HW: Tensor
    """Truth in working pixels."""
    weight_BHW: Tensor
    """What an error counts."""
    object_BHW: Tensor
    """0, or k on pixels of the k-th object whose mean flow is compared too."""


class Warps:
    """Warps drawn once and shown several times, mirrored and turned, since drawing costs as much as half a step."""

    def __init__(self, generator: Generator, size_px: int = 128, keep: int = 96, fresh: float = 0.4) -> None:
        self.generator, self.ranges, self.keep, self.fresh = generator, WarpRanges(size_px=size_px), keep, fresh
        self.drawn: list[Pairs] = []

    def batch(self, count: int) -> Pairs:
        """`count` pairs (the same number in every call)."""
        new = len(self.drawn) < 8 or torch.rand((), generator=self.generator) < self.fresh
        if new:
            warps = draw_warps(count, self.generator, self.ranges)
            pairs = Pairs(
                first_BCHW=warps.first_BCHW,
                second_BCHW=warps.second_BCHW,
                flow_B2HW=warps.flow_BHW2.permute(0, 3, 1, 2),
                weight_BHW=0.3 + 0.7 * warps.visible_BHW,
                object_BHW=torch.zeros_like(warps.visible_BHW, dtype=torch.uint8),
            )
            self.drawn = [*self.drawn[-self.keep + 1 :], pairs]
        else:
            pairs = self.drawn[int(torch.randint(len(self.drawn), (), generator=self.generator))]
        turns = torch.rand(3, generator=self.generator) < 0.5
        return turned(pairs, flip_u=bool(turns[0]), flip_v=bool(turns[1]), swap=bool(turns[2]))


def turned(pairs: Pairs, *, flip_u: bool, flip_v: bool, swap: bool) -> Pairs:
    """The pairs mirrored left-right, mirrored top-bottom, or with rows and columns exchanged."""
    dims = [d for d, flip in ((-1, flip_u), (-2, flip_v)) if flip]
    sign = torch.tensor([-1.0 if flip_u else 1.0, -1.0 if flip_v else 1.0]).view(1, 2, 1, 1)
    flow = pairs.flow_B2HW.flip(dims) * sign
    maps = [pairs.first_BCHW, pairs.second_BCHW, pairs.weight_BHW, pairs.object_BHW]
    first, second, weight, labels = (x.flip(dims) for x in maps)
    if swap:
        flow = flow.flip(1).transpose(-1, -2)
        first, second, weight, labels = (x.transpose(-1, -2) for x in (first, second, weight, labels))
    return Pairs(first_BCHW=first, second_BCHW=second, flow_B2HW=flow, weight_BHW=weight, object_BHW=labels)


def draw_drops(clips: Clips, moving_NS: Tensor, count: int, generator: Generator) -> Pairs:
    """Random neighbouring frames of clips, nine in ten with something moving, at RAFT's working size."""
    candidates = torch.randint(moving_NS.numel(), (16 * count,), generator=generator)
    keep = moving_NS.flatten()[candidates] | (torch.rand(len(candidates), generator=generator) < 0.1)
    index = torch.cat((candidates[keep], candidates[~keep]))[:count]
    clip, frame = index // moving_NS.shape[1], index % moving_NS.shape[1]
    images = [clips.frames_NTHW3[clip, frame + k].permute(0, 3, 1, 2).float() / 255 for k in (0, 1)]
    flow = clips.flow_NSHW2[clip, frame].float().permute(0, 3, 1, 2)
    labels = clips.mask_NTHW[clip, frame]
    if torch.rand((), generator=generator) < 0.5:
        images, labels = [image.flip(-1) for image in images], labels.flip(-1)
        flow = flow.flip(-1) * torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    first, second = (enlarged(image) for image in images)
    scale = first.shape[-1] / flow.shape[-1]
    size = first.shape[-2:]
    return Pairs(
        first_BCHW=first,
        second_BCHW=second,
        flow_B2HW=F.interpolate(flow, size=size, mode="nearest") * scale,
        weight_BHW=torch.ones(count, *size),
        object_BHW=F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0].to(torch.uint8),
    )


def augmented(pairs: Pairs, generator: Generator) -> tuple[Tensor, Tensor]:
    """Both images with other colours, a little blur and noise, in RAFT's range [-1, 1]."""
    images = torch.stack((pairs.first_BCHW, pairs.second_BCHW))
    batch = images.shape[1]

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    order = torch.stack([torch.randperm(3, generator=generator) for _ in range(batch)])
    images = torch.stack([images[:, b, order[b]] for b in range(batch)], dim=1)
    gain = 1 + 0.3 * (2 * rand(1, batch, 3, 1, 1) - 1) + 0.04 * (2 * rand(2, batch, 1, 1, 1) - 1)
    offset = 0.15 * (2 * rand(1, batch, 3, 1, 1) - 1)
    images = (images - 0.5) * gain + 0.5 + offset
    soft = F.avg_pool2d(F.pad(images.flatten(0, 1), (1, 1, 1, 1), mode="replicate"), 3, stride=1).view_as(images)
    images = torch.lerp(images, soft, rand(1, batch, 1, 1, 1) * (rand(1, batch, 1, 1, 1) < 0.4))
    level = 0.04 * rand(1, batch, 1, 1, 1) ** 2
    images = images + level * torch.randn(images.shape, generator=generator)
    first, second = images.clamp(0, 1) * 2 - 1
    return first, second


def joined(a: Pairs, b: Pairs) -> Pairs:
    return Pairs(**{name: torch.cat((getattr(a, name), getattr(b, name))) for name in vars(a)})


def sequence_loss(flows: list[Tensor], pairs: Pairs) -> tuple[Tensor, dict[str, float]]:
    """sum_i GAMMA^(n - 1 - i) (mean |e_i| + mean over moving pixels |e_i| / 2 + mean over objects |mean e_i| / 2).

    Args:
        flows: flow after every update, working pixels.

    Returns: the loss, and the end-point errors of the last flow in working pixels, on warps and on drops as there are.
    """
    moving = (pairs.flow_B2HW.norm(dim=1) > MOVING_PX) * pairs.weight_BHW * (pairs.object_BHW > 0)
    labels = F.one_hot(pairs.object_BHW.long(), 3)[..., 1:].float()
    area = labels.sum(dim=(1, 2))
    total = torch.zeros(())
    error = flows[-1]
    for i, flow in enumerate(flows):
        error = flow - pairs.flow_B2HW
        size = error.abs().sum(dim=1)
        everywhere = (size * pairs.weight_BHW).mean()
        on_moving = (size * moving).sum() / moving.sum().clamp(min=1)
        means = torch.einsum("bchw,bhwk->bkc", error, labels) / area.clamp(min=1)[..., None]
        of_objects = means.abs().sum() / (area > 0).sum().clamp(min=1)
        total = total + GAMMA ** (len(flows) - 1 - i) * (everywhere + 0.5 * on_moving + 0.5 * of_objects)
    epe = error.detach().norm(dim=1)
    seen = pairs.weight_BHW == 1
    generic = pairs.object_BHW.flatten(1).amax(dim=1) == 0
    values = {}
    if generic.any():
        values["epe_warps"] = float(epe[generic][seen[generic]].mean())
    if not generic.all():
        values["epe_moving"] = float((epe * moving).sum() / moving.sum().clamp(min=1))
    return total, values


def predict(raft: RAFT, first: Tensor, second: Tensor, updates: int, *, bf16: bool) -> list[Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = raft.feature_encoder(torch.cat((first, second))).float().chunk(2)
        context = raft.context_encoder(first).float()
        return match(raft, features[0], features[1], context, updates, every=True)


def moving_frames(clips: Clips) -> Tensor:
    """(N, S) bool: pairs in which some pixel moves by more than 0.1 px."""
    return clips.flow_NSHW2.abs().amax(dim=(2, 3, 4)) > 0.1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = pretraining_parser("flow", __doc__, steps=5600, batch_size=8, learning_rate=8e-4)
    add_training_flags(parser)
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="embedded", help="which network")
    parser.add_argument("--updates", type=int, default=5, help="refinements in training (default: %(default)s)")
    parser.add_argument(
        "--large_share",
        type=float,
        default=0.3,
        help="share of batches that are warps of 256 px (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, and export the averaged weights."""
    options = parse(arguments)
    torch.set_num_threads(options.num_threads)
    torch.manual_seed(options.seed)
    raft = VARIANTS[options.variant].build()
    training = Training(options, raft)
    warps, large = Warps(training.generator), Warps(training.generator, size_px=256)
    clips, moving = None, torch.zeros(0)
    for step in training.steps():
        if step % 200 == 0 or (clips is None and step % 50 == 0):
            clips = read_more(clips, options)
            moving = moving_frames(clips) if clips is not None else moving
        half = options.batch_size // 2
        if torch.rand((), generator=training.generator) < options.large_share:
            pairs = large.batch(max(1, half // 2))
        else:
            second_half = (
                draw_drops(clips, moving, half, training.generator) if clips is not None else warps.batch(half)
            )
            pairs = joined(warps.batch(half), second_half)
        first, second = augmented(pairs, training.generator)
        flows = predict(raft, first, second, options.updates, bf16=options.bf16)
        loss, values = sequence_loss(flows, pairs)
        training.update(loss, values)
    training.export(VARIANTS[options.variant].to_config(), {})


def read_more(clips: Clips | None, options: argparse.Namespace) -> Clips | None:
    """Clips rendered since the last look join the training."""
    if clips is not None and len(clips) >= options.max_clips:
        return clips
    return read_clips(options.data, options.max_clips)


if __name__ == "__main__":
    main()

"""What the flow part of a reward costs, against the way it was published, with the same weights; in CPU seconds.

    python benchmarks/flow_speed.py                                  # the embedded RAFT on shipped validation clips
    python benchmarks/flow_speed.py --weights ../shared/testdata/weights/raft-small.pth

The published way (PISA's flow reward): every pair of frames alone through RAFT, both frames encoded for each, 20
updates, no autocast, and the flow of the reference clip computed again at every step. A step measures the flow of
generated clips with its gradient to the frames, and that of the reference without.

Every row of the first table adds one choice to the row above it. g is read off the clips by positions and flow, as the
recipe `gravity` does it, against the simulation's own: choices that make it worse are not worth their time. Threads are
one; times alternate between the ways and are medians of process time (user and system).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring_scenes import provenance, write_text
from torch import Tensor

from data.rows import collate, load_split, to_video
from reward_physics.estimators.flow import FlowEstimator, check_frames, enlarged, load_flow, reduced
from reward_physics.observation import Instruments, Observation
from reward_physics.tracks.in_image import robust_flow
from reward_physics.tracks.zoom import object_flow
from reward_physics.video import Video
from rewards.recipe.file import read_recipe

ROOT = Path(__file__).resolve().parents[1]


class PairByPair(FlowEstimator):
    """The published way: torchvision's RAFT on one pair at a time."""

    def forward(self, frames_BTCHW: Tensor, *, stride: int = 1) -> Tensor:
        check_frames(frames_BTCHW, "flow")
        height, width = frames_BTCHW.shape[-2:]
        clips = []
        for frames in frames_BTCHW:
            images = enlarged(frames) * 2 - 1
            pairs = [
                self.raft(images[t : t + 1], images[t + stride : t + stride + 1], num_flow_updates=self.updates)[-1]
                for t in range(len(frames) - stride)
            ]
            clips.append(reduced(torch.cat(pairs), height, width))
        return torch.stack(clips)


class ClipByClip(FlowEstimator):
    """Every frame encoded once, one clip at a time."""

    def forward(self, frames_BTCHW: Tensor, *, stride: int = 1) -> Tensor:
        return torch.cat([super(ClipByClip, self).forward(clip[None], stride=stride) for clip in frames_BTCHW])


def step(flow: FlowEstimator, frames: Tensor, reference: Tensor, cached: Tensor | None) -> Tensor:
    """Flow of the clips and of the reference, their distance, and its gradient at the frames."""
    frames = frames.detach().requires_grad_()
    with torch.no_grad():
        target = flow(reference) if cached is None else cached
    (flow(frames) - target).abs().mean().backward()
    assert frames.grad is not None
    return frames.grad


def cpu_seconds(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median process time of each way, taken in turns after one warm-up of all."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            begun = time.process_time()
            way()
            if turn:
                spent[name].append(time.process_time() - begun)
    return {name: statistics.median(times) for name, times in spent.items()}


def g_errors(video: Video, g_B: Tensor, flow: FlowEstimator) -> tuple[float, float]:
    """Median and 95 % quantile of |g - true| / true with this flow, depth and mask as the recipe `gravity` has them."""
    config = read_recipe(ROOT / "configs" / "recipes" / "gravity.yaml").instruments
    instruments = config.model_copy(update={"flow": None}).build()
    instruments = Instruments(**{**vars(instruments), "flow": flow})
    with torch.no_grad():
        fit = Observation(video, instruments, grad=False).fit
    errors = ((fit.g_m_s2_B - g_B).abs() / g_B)[fit.measurable_B]
    return float(errors.median()), float(errors.quantile(0.95))


def choices(weights: str, updates: int) -> list[tuple[str, FlowEstimator, bool]]:
    """Name, estimator, and whether the reference's flow is cached, each row one choice beyond the one above."""
    raft = load_flow(weights).raft
    return [
        ("published: pair by pair, 20 updates, reference each step", PairByPair(raft, updates=20), False),
        ("every frame encoded once", ClipByClip(raft, updates=20), False),
        ("clips in one batch", FlowEstimator(raft, updates=20), False),
        ("12 updates", FlowEstimator(raft, updates=12), False),
        (f"{updates} updates", FlowEstimator(raft, updates=updates), False),
        ("bfloat16 convolutions", FlowEstimator(raft, updates=updates, autocast=True), False),
        ("reference's flow cached", FlowEstimator(raft, updates=updates, autocast=True), True),
    ]


def table_of_choices(video: Video, reference: Video, g_B: Tensor, options: argparse.Namespace) -> str:
    frames, reference_frames = video.frames_BTCHW[: options.clips], reference.frames_BTCHW[: options.clips]
    ways: dict[str, Callable[[], object]] = {}
    errors: dict[str, tuple[float, float]] = {}
    for name, flow, cached in choices(options.weights, options.updates):
        with torch.no_grad():
            kept = flow(reference_frames) if cached else None
        ways[name] = lambda flow=flow, kept=kept: step(flow, frames, reference_frames, kept)
        # A cached reference does not change what is read off the clips.
        errors[name] = list(errors.values())[-1] if cached else g_errors(video, g_B, flow)
    seconds = cpu_seconds(ways, options.repeats)
    first = next(iter(seconds.values()))
    lines = ["| way | CPU s a step | times as fast | g error, median | p95 |", "|" + "---|" * 5]
    for name, spent in seconds.items():
        median, p95 = errors[name]
        lines.append(f"| {name} | {spent:.2f} | {first / spent:.1f} | {100 * median:.1f} % | {100 * p95:.1f} % |")
    return "\n".join(lines)


def table_of_crops(video: Video, batch: dict[str, Any], options: argparse.Namespace) -> str:
    """Flow of the object at 256 px, in the whole picture and in a crop of 128 px, against its true displacement."""
    factor, clips = 256 // video.height_px, options.clips
    flow = load_flow(options.weights, updates=options.updates)
    frames = F.interpolate(video.frames_BTCHW[:clips].flatten(0, 1), scale_factor=factor, mode="bilinear")
    frames = frames.unflatten(0, (clips, -1))
    mask = (batch["mask_BTHW"][:clips] == 1).float().repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    assert video.camera is not None
    centre = video.camera.project(batch["poses_BTN7"][:, :, 0, :3])[0][:clips] * factor
    radius = (mask[:, 0].sum((1, 2)) / math.pi).sqrt()
    moved = centre[:, 1:] - centre[:, :-1]

    def whole() -> Tensor:
        return robust_flow(flow(frames), mask[:, :-1])

    def cropped() -> Tensor:
        return object_flow(frames, mask, centre_BT2=centre.round(), radius_B=radius, flow=flow.forward)[0]

    with torch.no_grad():
        seconds = cpu_seconds({"whole picture": whole, "crop": cropped}, options.repeats)
        errors = {name: (way() - moved).norm(dim=-1).median() / factor for name, way in
                  (("whole picture", whole), ("crop", cropped))}  # fmt: skip
    lines = ["| flow of | CPU s | error of the displacement, median (px of the original) |", "|---|---|---|"]
    lines += [f"| {name} | {spent:.2f} | {float(errors[name]):.2f} |" for name, spent in seconds.items()]
    return "\n".join(lines)


def table_of_lengths(video: Video, options: argparse.Namespace) -> str:
    """CPU seconds of a whole measurement (flow, depth, arc, fit) against the number of frames."""
    instruments = read_recipe(ROOT / "configs" / "recipes" / "gravity.yaml").instruments.build()
    lengths = (9, 17, 33, 65)

    def longer(frames: int) -> Video:
        clip = video.frames_BTCHW[:1]
        there_and_back = torch.cat((clip, clip.flip(1)[:, 1:-1]), dim=1)
        repeated = there_and_back.repeat(1, -(-frames // there_and_back.shape[1]), 1, 1, 1)
        return video[:1].with_frames(repeated[:, :frames])

    def whole(clip: Video) -> object:
        with torch.no_grad():
            return Observation(clip, instruments, grad=False).fit

    clips = {frames: longer(frames) for frames in lengths}
    ways = {str(frames): (lambda clip=clip: whole(clip)) for frames, clip in clips.items()}
    seconds = cpu_seconds(ways, options.repeats)
    lines = ["| frames | CPU s | CPU s a frame |", "|---|---|---|"]
    lines += [f"| {n} | {spent:.2f} | {spent / int(n):.4f} |" for n, spent in seconds.items()]
    return "\n".join(lines)


def overhead(video: Video, options: argparse.Namespace) -> str:
    """A reward that asks for flow, depth and arcs of one Observation, against the estimators alone, with gradient."""
    recipe = read_recipe(ROOT / "configs" / "recipes" / "gravity.yaml").instruments.build()
    clips = video[list(range(options.clips))]

    def alone() -> None:
        frames = clips.frames_BTCHW.detach().requires_grad_()
        assert recipe.flow is not None and recipe.depth is not None
        depth = recipe.depth(frames, clips.camera)
        (recipe.flow(frames).sum() + depth.depth_BTHW.sum() + depth.mask_logits_BTHW.sum()).backward()

    def reward() -> None:
        frames = clips.frames_BTCHW.detach().requires_grad_()
        observation = Observation(clips.with_frames(frames), recipe, grad=True)
        assert observation.flow_BSHW2 is not None and observation.depth is not None
        loss = observation.fit.g_m_s2_B.sum() + observation.flow_BSHW2.sum() + observation.depth.depth_BTHW.sum()
        (loss + observation.track.visible_BT.sum()).backward()

    seconds = cpu_seconds({"alone": alone, "reward": reward}, options.repeats)
    return (
        f"Flow, depth and mask with their gradient take {seconds['alone']:.2f} CPU s for {options.clips} clips; a "
        f"reward that uses flow, depth, arc and fit of one Observation takes {seconds['reward']:.2f} CPU s: "
        f"{seconds['reward'] / seconds['alone']:.3f} times the estimators alone."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="embedded", help="flow estimator: a name or a path (see load_flow)")
    parser.add_argument("--updates", type=int, default=4, help="updates of the present way (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=2, help="clips a step (default: %(default)s)")
    parser.add_argument("--clips_for_g", type=int, default=24, help="clips g is read off (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed turns (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "flow_speed.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for row in load_split("validation") if row["kind"] in ("drop", "bounce", "throw")]
    batch = collate(rows[: options.clips_for_g])
    video, g_B = to_video(batch), batch["g_m_s2_B"]
    reference = collate(rows[options.clips_for_g : options.clips_for_g + options.clips])
    name, size = Path(options.weights).name, f"{video.num_frames} frames of {video.height_px} px"
    parts = [
        f"# Flow of a reward: weights `{name}`, {options.clips} clips of {size}, one thread",
        __doc__.split("\n\n", 2)[2].strip() if __doc__ else "",
        table_of_choices(video, to_video(reference), g_B, options),
        "A crop that follows the object, against the whole picture, on the same clips enlarged to 256 px:",
        table_of_crops(video, batch, options),
        "A whole measurement by `gravity.yaml` of one clip:",
        table_of_lengths(video, options),
        overhead(video, options),
        provenance(
            f"python benchmarks/flow_speed.py --weights {name} --updates {options.updates} --clips {options.clips} "
            f"--clips_for_g {options.clips_for_g} --repeats {options.repeats}"
        ),
    ]
    write_text(options.output, "\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()

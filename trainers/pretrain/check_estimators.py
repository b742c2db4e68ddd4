"""Measure the estimators on clips with known truth: `python -m trainers.pretrain.check_estimators`.

Prints one table for the reward's estimators and the judge's, each figure beside what is asked of it, and writes it as
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from reward_physics.camera import Camera
from reward_physics.estimators.depth import Depth, DepthEstimator
from reward_physics.estimators.flow import SHIPPED as FLOW_SHIPPED
from reward_physics.estimators.flow import FlowEstimator, load_flow
from reward_physics.estimators.load import SHIPPED as DEPTH_SHIPPED
from reward_physics.estimators.load import load_depth
from trainers.pretrain.clips import Clips, read_clips
from trainers.settings.options import FlagParser

ROOT = Path(__file__).resolve().parents[2]

MOVING_PX = 0.1
"""A pixel moves when its true displacement is above this."""

LEAST_PATH_PX = 3.0
"""An object's path must be this long before its relative bias is looked at."""

FIGURES = {
    "flow_epe_moving_px": "flow",
    "flow_object_bias": "flow",
    "flow_object_bias_signed": "flow",
    "rubberwhale_epe_px": "flow",
    "depth_abs_rel": "depth",
    "depth_object_bias": "depth",
    "depth_object_bias_signed": "depth",
    "first_frame_distance_error": "depth",
    "mask_iou": "depth",
}
"""Which network each figure is of."""

LIMITS = {
    "flow_epe_moving_px": ("at most", 0.5),
    "flow_object_bias": ("at most", 0.02),
    "depth_abs_rel": ("at most", 0.05),
    "depth_object_bias": ("at most", 0.02),
    "first_frame_distance_error": ("at most", 0.05),
    "mask_iou": ("at least", 0.85),
}


@torch.no_grad()
def flow_figures(flow: FlowEstimator, clips: Clips, *, batch_size: int = 4) -> dict[str, float]:
    """End-point error on moving pixels, and how far the objects' mean displacements are off along their paths.

    The bias of a clip is |sum over frames of (estimated - true mean displacement)| / length of the true path, over the
    pixels of the first object.
    """
    errors, biases, signed = [], [], []
    for part in tqdm(torch.arange(len(clips)).split(batch_size), desc="flow", unit="batch"):
        truth = clips.flow_NSHW2[part].float()
        estimate = flow(clips.frames_NTHW3[part].permute(0, 1, 4, 2, 3).float() / 255)
        error = estimate - truth
        errors.append(error.norm(dim=-1)[truth.norm(dim=-1) > MOVING_PX])
        on = (clips.mask_NTHW[part][:, :-1] == 1).float()[..., None]
        area = on.sum(dim=(2, 3)).clamp(min=1)
        mean_error, mean_truth = ((x * on).sum(dim=(2, 3)) / area for x in (error, truth))
        path = mean_truth.norm(dim=-1).sum(dim=1)
        along = (mean_error * mean_truth).sum(dim=-1) / mean_truth.norm(dim=-1).clamp(min=1e-6)
        long = path > LEAST_PATH_PX
        biases.append((mean_error.sum(dim=1).norm(dim=-1) / path.clamp(min=1e-6))[long])
        signed.append((along.sum(dim=1) / path.clamp(min=1e-6))[long])
    return {
        "flow_epe_moving_px": float(torch.cat(errors).mean()),
        "flow_object_bias": float(torch.cat(biases).median()),
        "flow_object_bias_signed": float(torch.cat(signed).median()),
    }


@torch.no_grad()
def depth_figures(depth: DepthEstimator, clips: Clips, *, batch_size: int = 4) -> dict[str, float]:
    """AbsRel of all pixels, the first object's mean depth against the truth, and the masks' IoU.

    Surfaces are compared with surfaces: the correction from surface to centre is the track's, not the network's.
    `first_frame_distance_error` is the bias where the network sees the first frame alone: whether an image-to-video
    model can know the scale.
    """
    relative, biases, probes, ious = [], [], [], []
    for part in tqdm(torch.arange(len(clips)).split(batch_size), desc="depth", unit="batch"):
        frames = clips.frames_NTHW3[part].permute(0, 1, 4, 2, 3).float() / 255
        camera = camera_of(clips, part)
        answer, probe = depth(frames, camera), depth(frames[:, :1], camera)
        truth, mask = clips.depth_NTHW[part].float(), clips.mask_NTHW[part]
        relative.append(((answer.depth_BTHW - truth).abs() / truth).mean(dim=(1, 2, 3)))
        biases.append(object_bias(answer, truth, mask))
        probes.append(object_bias(probe, truth[:, :1], mask[:, :1]))
        if answer.mask_logits_BTHW is not None:
            prediction, there = answer.mask_logits_BTHW > 0, mask > 0
            ious.append((prediction & there).sum(dim=(1, 2, 3)) / (prediction | there).sum(dim=(1, 2, 3)).clamp(min=1))
    figures = {
        "depth_abs_rel": float(torch.cat(relative).mean()),
        "depth_object_bias": float(torch.cat(biases).abs().median()),
        "depth_object_bias_signed": float(torch.cat(biases).median()),
        "first_frame_distance_error": float(torch.cat(probes).abs().median()),
    }
    return figures | ({"mask_iou": float(torch.cat(ious).mean())} if ious else {})


def object_bias(answer: Depth, truth_BTHW: Tensor, mask_BTHW: Tensor) -> Tensor:
    """Estimated over true mean depth of the first object's pixels, minus 1, of every clip that shows it."""
    on = (mask_BTHW == 1).float()
    seen = on.sum(dim=(2, 3)) > 0
    measured = answer.depth_BTHW if answer.object_depth_BTHW is None else answer.object_depth_BTHW
    means = ((x * on).sum(dim=(2, 3)) / on.sum(dim=(2, 3)).clamp(min=1) for x in (measured, truth_BTHW))
    estimate, exact = ((x * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1) for x in means)
    return (estimate / exact.clamp(min=1e-6) - 1)[seen.any(dim=1)]


def camera_of(clips: Clips, index: Tensor) -> Camera:
    height, width = clips.mask_NTHW.shape[-2:]
    return Camera(
        intrinsics_B33=clips.intrinsics_N33[index],
        world_from_camera_B44=clips.world_from_camera_N44[index],
        height_px=height,
        width_px=width,
    )


@torch.no_grad()
def rubberwhale_epe(flow: FlowEstimator, folder: Path) -> float:
    """Mean end-point error (px) on Middlebury's RubberWhale, in pixels with known truth."""
    pair = [np.asarray(Image.open(folder / f"rubberwhale_frame{k}.png").convert("RGB")) for k in (10, 11)]
    frames = torch.from_numpy(np.stack(pair)).permute(0, 3, 1, 2)[None].float() / 255
    truth = read_flo(folder / "rubberwhale_flow10.flo")
    known = truth.abs().amax(dim=-1) < 1e9
    return float((flow(frames)[0, 0] - truth).norm(dim=-1)[known].mean())


def read_flo(path: Path) -> Tensor:
    """A flow in Middlebury's format, (H, W, 2) px; unknown pixels hold 1e9 and more."""
    content = path.read_bytes()
    tag, (width, height) = content[:4], np.frombuffer(content[4:12], "<i4")
    if tag != b"PIEH":
        raise ValueError(f"{path} must be a Middlebury flow starting with PIEH, got {tag!r}: fetch it again")
    return torch.from_numpy(np.frombuffer(content[12:], "<f4").reshape(height, width, 2).copy())


def measure_estimators(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Figures of every pair of estimators asked for."""
    clips = read_clips([options.data], options.scenes)
    if clips is None:
        raise ValueError(f"check_estimators: no clips in {options.data}: write some with `python -m data.write`")
    folder = Path(options.testdata)
    whale = folder / "flow" / "rubberwhale_flow10.flo"
    results: dict[str, dict[str, float]] = {}
    for name in options.estimators:
        flow = load_flow(name, updates=options.flow_updates)
        results[name] = flow_figures(flow, clips) | depth_figures(load_depth(name), clips)
        if whale.exists():
            flow.updates = 20
            results[name]["rubberwhale_epe_px"] = rubberwhale_epe(flow, whale.parent)
    published = folder / "weights" / "raft-small.pth"
    if whale.exists() and published.exists():
        results["published RAFT small"] = {
            "rubberwhale_epe_px": rubberwhale_epe(load_flow(str(published), updates=20), whale.parent),
            **flow_figures(load_flow(str(published), updates=12), clips),
        }
    return results


def record(results: Mapping[str, Mapping[str, float]], clips: str) -> None:
    """Write the figures into training.json beside the weights that ship with the toolkit."""
    kinds = {"flow": FLOW_SHIPPED, "depth": DEPTH_SHIPPED}
    for kind, folders in kinds.items():
        for name in folders.keys() & results.keys():
            path = folders[name] / "training.json"
            training = json.loads(path.read_text()) if path.exists() else {}
            mine = {key: round(value, 4) for key, value in results[name].items() if FIGURES[key] == kind}
            training["quality"] = {"measured_on": clips, **mine}
            path.write_text(json.dumps(training, indent=2) + "\n")


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Figures as rows, estimators as columns, what is asked last."""
    rows = list(dict.fromkeys(figure for figures in results.values() for figure in figures))
    lines = ["| figure | " + " | ".join(results) + " | asked |", "|" + "---|" * (len(results) + 2)]
    for row in rows:
        cells = [f"{figures[row]:.4f}" if row in figures else "" for figures in results.values()]
        asked = "{} {}".format(*LIMITS[row]) if row in LIMITS else ""
        lines.append(f"| {row} | " + " | ".join(cells) + f" | {asked} |")
    return "\n".join(lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = FlagParser(prog="python -m trainers.pretrain.check_estimators", description=__doc__)
    add = parser.add_argument
    add("--data", default=str(ROOT / "data/drops/clips/heldout"), help="folder of clips (default: %(default)s)")
    add("--scenes", type=int, default=128, help="scenes of the data to look at (default: %(default)s)")
    add("--estimators", nargs="+", default=["embedded", "judge"], help="names or folders (default: %(default)s)")
    add("--flow_updates", type=int, default=6, help="RAFT's refinements (default: %(default)s)")
    add("--testdata", default=str(ROOT.parent / "shared/testdata"), help="real data, if any (default: %(default)s)")
    add("--record", action="store_true", help="write the figures into training.json beside the shipped weights")
    add("--output", help="write the figures to this JSON file as well")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print, write."""
    options = parse(arguments)
    results = measure_estimators(options)
    print(table(results))
    if options.record:
        record(results, os.path.relpath(options.data, ROOT))
    if options.output:
        Path(options.output).write_text(json.dumps(results, indent=2) + "\n")
    return results


if __name__ == "__main__":
    main()

"""Videos that any model made from PisaBench's first frames, against PisaBench's own clips.

    python -m trainers.pisa_evaluation --truth pisabench --kind sim --videos wan=outputs/wan tuned=outputs/tuned
    python -m trainers.pisa_evaluation --truth pisabench --kind real --videos wan=outputs/wan --flow raft-small.pth

Each folder holds one video, or folder of frames, a clip, by the clip's name (0000.mp4). Masks of the object come from
NAME.npz beside the video where a segmenter left one (`mask`, as in the benchmark), otherwise the benchmark's own mask
of the first frame is carried along by optical flow. Leaves pisa.json and pisa.md. It knows no metres:
L2 in shares of the diagonal of the benchmark's picture and Chamfer in its pixels, as corrected and as published.

Axes: T frames, C colours, H rows, W columns.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from data.published.pisabench import PisaClip, clip_folders, read_clip, read_mask
from data.published.video_folder import FolderClip, read_folder
from reward_physics.estimators.flow import load_flow
from reward_physics.figures import metrics
from reward_physics.figures.intervals import Interval, bootstrap_interval
from reward_physics.objects import masks
from trainers.clips.folder import write_text
from trainers.evaluation.clip_figures import mask_figures
from trainers.evaluation.figures import cell
from trainers.evaluation.measured import plain
from trainers.settings.options import Rate, exit_with_one_line, option, parse_config, strict

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("L2 (of the diagonal)", "trajectory_l2", ".3f"),
    ("L2 published", "published_l2", ".3f"),
    ("Chamfer (px)", "chamfer_px", ".1f"),
    ("Chamfer published", "published_chamfer", ".3f"),
    ("IoU", "iou", ".3f"),
    ("IoU published", "published_iou", ".3f"),
    ("aligned IoU", "aligned_iou", ".3f"),
    ("area ratio", "area_ratio", ".2f"),
    ("vanished", "vanished", ".1%"),
)
"""Header, name of the figure, form."""

Flow = Callable[[Tensor], Tensor]


@strict
class PisaConfig:
    """Compare folders of videos with PisaBench."""

    truth: str = option("pisabench", "the benchmark's folder, which holds real/ and sim/")
    kind: Literal["real", "sim"] = option("sim", "which of its clips")
    videos: list[str] = option([], "what to compare: NAME=FOLDER of videos that carry the clips' names")
    fps: Rate | None = option(None, "frames a second of the videos; by default the files' own, and needed for frames")
    flow: str = option("embedded", "flow network for masks: embedded, torchvision/raft_small or the path of weights")
    output_dir: str = option("outputs/pisa", "folder of pisa.json and pisa.md")


def compare_folders(config: PisaConfig, *, flow: Flow | None = None) -> dict[str, Any]:
    """Measure every video and write the table.

    Args:
        flow: frames_BTCHW -> flow_BSHW2; replaces the network that the config names.

    Raises:
        ValueError: no such folder, a video of no clip, no video at all.
    """
    folders = named_folders(config.videos)
    truth = {folder.name: folder for folder in clip_folders(config.truth, config.kind)}
    flow = flow or load_flow(config.flow)
    arms: dict[str, Any] = {}
    for name, folder in folders.items():
        clips = []
        with tqdm(total=len(truth), desc=f"{name}: measuring", unit="clip") as bar:
            for video in read_folder(folder, fps=config.fps):
                if video.name not in truth:
                    raise ValueError(
                        f"{folder} holds {video.name}, which is no {config.kind} clip of {config.truth}: name the "
                        f"videos as the clips, such as {next(iter(truth))}.mp4"
                    )
                true = read_clip(truth[video.name], kind=config.kind)
                clips.append({"clip": video.name} | clip_figures(video, true, folder, flow))
                bar.update()
        missing = [clip for clip in truth if clip not in {figures["clip"] for figures in clips}]
        arms[name] = {"clips": clips, "missing": missing, "summary": summary(clips)}
    record = {"truth": config.truth, "kind": config.kind, "arms": arms}
    write_text(Path(config.output_dir) / "pisa.json", json.dumps(plain(record), indent=1) + "\n")
    write_text(Path(config.output_dir) / "pisa.md", table(record) + "\n")
    return record


def named_folders(texts: Sequence[str]) -> dict[str, Path]:
    """NAME=FOLDER texts as folders by name.

    Raises:
        ValueError: none, one without a name, a name that comes twice.
    """
    pairs = [text.partition("=") for text in texts]
    bad = [text for text, (name, _, folder) in zip(texts, pairs, strict=True) if not (name and folder)]
    if bad or not texts:
        raise ValueError(f"videos must name folders as NAME=FOLDER, got {bad[0] if bad else 'none'}")
    names = [name for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"videos has two folders of one name in {', '.join(names)}: give each its own")
    return {name: Path(folder) for name, _, folder in pairs}


def clip_figures(video: FolderClip, true: PisaClip, folder: Path, flow: Flow) -> dict[str, Any]:
    """One video's figures against its clip, at the video's times and in the clip's picture."""
    true = true.at(video.fps, len(video.frames_TCHW))
    count = len(true.frames_TCHW)
    true_THW = true.dropped_mask_THW
    mask_THW = object_mask(video, true, folder, flow)[:count]
    size = true_THW.shape[-2:]
    mask_THW = F.interpolate(mask_THW[:, None], size=size, mode="bilinear", align_corners=False, antialias=True)[:, 0]
    centroid_T2, true_T2 = (metrics.mask_centroid((mask >= 0.5).double()) for mask in (mask_THW, true_THW))
    seen_T = torch.isfinite(true_T2).all(-1)
    diagonal_px = float(sum(side**2 for side in size)) ** 0.5
    away = metrics.trajectory_l2(centroid_T2[None, seen_T], true_T2[None, seen_T], missing=diagonal_px)
    return {
        "frames": count,
        "trajectory_l2": float(away) / diagonal_px,
        **mask_figures(mask_THW, true_THW),
        "aligned_iou": float(metrics.aligned_iou(mask_THW, true_THW)[seen_T].mean()),
        "area_ratio": metrics.nan_median(metrics.area_ratio(mask_THW, true_THW)),
    }


def object_mask(video: FolderClip, true: PisaClip, folder: Path, flow: Flow) -> Tensor:
    """The falling object in every frame of a video: a segmenter's file, or the true first mask carried by the flow."""
    made = folder / f"{video.name}.npz"
    if made.exists():
        mask_TKHW = read_mask(made, len(video.frames_TCHW))
        return mask_TKHW[:, min(true.dropped, mask_TKHW.shape[1] - 1)]
    size = video.frames_TCHW.shape[-2:]
    first_HW = F.interpolate(true.dropped_mask_THW[None, :1], size=size, mode="bilinear", antialias=True)[0, 0]
    with torch.no_grad():
        return masks.propagated((first_HW[None] >= 0.5).float(), flow(video.frames_TCHW[None]))[0]


def summary(clips: Sequence[dict[str, Any]]) -> dict[str, Interval]:
    """The mean over clips of each figure with its bootstrap interval."""
    if not clips:
        return {}
    return {
        name: bootstrap_interval(
            torch.tensor([clip[name] for clip in clips], dtype=torch.float64),
            lambda values_RN: torch.nanmean(values_RN, dim=-1),
            generator=torch.Generator().manual_seed(0),
            resamples=1000,
        )
        for _, name, _ in COLUMNS
    }


def table(record: dict[str, Any]) -> str:
    """The folders as a Markdown table: means over clips with 95 % intervals."""
    header = ["videos", "clips", *(header for header, _, _ in COLUMNS)]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name, arm in record["arms"].items():
        cells = [cell(arm["summary"][figure], form) for _, figure, form in COLUMNS]
        lines.append("| " + " | ".join([name, str(len(arm["clips"])), *cells]) + " |")
    for name, arm in record["arms"].items():
        if arm["missing"]:
            lines += ["", f"{name}: {len(arm['missing'])} clips have no video, the first of them {arm['missing'][0]}"]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    config = parse_config(PisaConfig)
    print(table(compare_folders(config)))
    print(f"every clip's figures: {Path(config.output_dir) / 'pisa.json'}")


if __name__ == "__main__":
    exit_with_one_line(main)

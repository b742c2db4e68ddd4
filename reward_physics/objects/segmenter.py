"""The finder `segmenter`: the mask of a network that says which pixels are objects.

Axes: B clips, T frames, N objects, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward_physics.objects import masks
from reward_physics.objects.blobs import find_blobs
from reward_physics.objects.finder import Finder, Found, Measurements
from reward_physics.objects.linking import Path, choose_paths, find_paths, without_merged
from reward_physics.objects.motion import follow_path, stack_objects


class Segmenter(Finder):
    """The depth estimator's own mask. Several objects are its blobs, linked from frame to frame."""

    name = "segmenter"
    description = "from the depth network"
    needs = ("depth",)

    def check(self, *, flow: Callable[..., Any] | None, depth: Callable[..., Any] | None, flow_stride: int) -> None:
        if depth is None:
            raise ValueError(
                "instruments.mask segmenter needs a depth estimator with a mask: name one, or take appearance"
            )

    def find(self, seen: Measurements) -> Found:
        logits = seen.depth.mask_logits_BTHW
        if logits is None:
            raise ValueError("mask segmenter: the depth estimator gives no mask: choose appearance or propagated")
        return Found(mask_BTHW=masks.segmenter(logits), reasons=[None] * seen.video.batch_size)

    def find_all(self, seen: Measurements) -> list[Found]:
        if seen.video.object_masks_BNHW is None and seen.video.first_mask_BHW is None:
            return _by_blobs(seen)
        return super().find_all(seen)

    def foreground(self, seen: Measurements, first_BNHW: Tensor) -> Tensor:
        return seen.mask_BTHW


def _by_blobs(seen: Measurements) -> list[Found]:
    """The moving blobs of the segmenter's mask; less than two of them are left to the track of one object."""
    frames, soft_BTHW = seen.video.frames_BTCHW, seen.mask_BTHW
    clips = []
    for clip, soft in enumerate(soft_BTHW.detach()):
        half = torch.full_like(soft[0], 0.5)
        blobs = [find_blobs(frame, inside, half) for frame, inside in zip(frames[clip].detach(), soft, strict=True)]
        ticks_T = seen.video.ticks_BT[clip].cpu().numpy()
        paths = without_merged(choose_paths(find_paths(blobs, ticks_T)))
        tracked = seen.image_track.centroid_BT2[clip].detach().double().cpu().numpy()
        paths.sort(key=lambda path, tracked=tracked: _apart(path, tracked))
        apart = [(path, [rival for rival in paths if rival is not path]) for path in paths]
        clips.append([follow_path(soft_BTHW[clip], path, ticks_T, rivals) for path, rivals in apart])
    return stack_objects(clips, frames) if any(len(clip) > 1 for clip in clips) else []


def _apart(path: Path, centre_T2: np.ndarray) -> float:
    """Usual distance of a path from a track, px."""
    return float(np.median(np.linalg.norm(path.centre_P2 - centre_T2[path.frames_P], axis=1)))

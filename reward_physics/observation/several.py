"""Several objects in one clip: told apart, each followed with its identity kept.

Three ways, by what is known. Where `mask: motion` finds objects, each is a path of blobs. Where the first frame's masks
are given, the foreground is shared out by the colours they hold and the places they come from (`sharing`).
Where only a segmenter's mask is known, its blobs are linked from frame to frame.

Axes: B clips, T frames, N objects, H rows, W columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from reward_physics.grid import centre_of
from reward_physics.objects import masks
from reward_physics.objects.blobs import find_blobs
from reward_physics.objects.linking import Path, choose_paths, find_paths, without_merged
from reward_physics.objects.motion import Moving, find_all_moving, follow_path, stack_objects
from reward_physics.objects.sharing import shares
from reward_physics.tracks.in_image import follow

if TYPE_CHECKING:
    from reward_physics.observation.observation import Observation


def find_objects(observation: Observation) -> list[Moving]:
    """Every object of the clips, that of `Observation.image_track` first or in the order of `Video.object_masks_BNHW`;
    one or none where nothing tells several apart."""
    video = observation.video
    if observation.instruments.mask == "motion":
        if video.object_masks_BNHW is None and video.first_mask_BHW is not None:
            return []
        return find_all_moving(observation.steady_frames_BTCHW, video.object_masks_BNHW)
    if video.object_masks_BNHW is not None:
        return _by_first_masks(observation, video.object_masks_BNHW)
    if observation.instruments.mask == "segmenter" and video.first_mask_BHW is None:
        return _by_blobs(observation)
    return []


def masks_of_objects(observation: Observation) -> list[Tensor]:
    """One soft mask (B, T, H, W) for each object of `Video.object_masks_BNHW`; empty where the clips have none.

    The foreground is the instruments' own, shared out by `sharing.shares`: the gradient reaches the pixels through it.
    """
    first_BNHW = observation.video.object_masks_BNHW
    if first_BNHW is None:
        return []
    frames = observation.video.frames_BTCHW
    if observation.instruments.mask == "segmenter":
        foreground = observation.mask_BTHW
    else:
        foreground = masks.by_appearance(frames, first_BNHW.amax(1))
    found = foreground[:, None] * shares(frames.detach(), foreground.detach(), first_BNHW)
    return list(found.unbind(1))


def _by_first_masks(observation: Observation, first_BNHW: Tensor) -> list[Moving]:
    objects = []
    for mask, first in zip(observation.object_masks, first_BNHW.unbind(1), strict=True):
        window = follow(mask.detach(), first, None, 1)
        area_B = first.sum((1, 2))
        present = (mask.detach() * window).sum((2, 3)) > 0.4 * area_B[:, None]
        reasons = [None if area > 0 else "this clip has fewer objects" for area in area_B.tolist()]
        objects.append(
            Moving(
                mask_BTHW=mask,
                window_BTHW=window,
                centre_BT2=centre_of(window),
                radius_B=(area_B / torch.pi).sqrt().clamp(min=1.0).to(mask),
                present_BT=present,
                reasons=reasons,
            )
        )
    return objects


def _by_blobs(observation: Observation) -> list[Moving]:
    """The moving blobs of the segmenter's mask; less than two of them are left to the track of one object."""
    frames, mask = observation.video.frames_BTCHW, observation.mask_BTHW
    clips = []
    for clip, soft in enumerate(mask.detach()):
        half = torch.full_like(soft[0], 0.5)
        blobs = [find_blobs(frame, inside, half) for frame, inside in zip(frames[clip].detach(), soft, strict=True)]
        paths = without_merged(choose_paths(find_paths(blobs)))
        tracked = observation.image_track.centroid_BT2[clip].detach().double().cpu().numpy()
        paths.sort(key=lambda path, tracked=tracked: _apart(path, tracked))
        clips.append([follow_path(mask[clip], path, [other for other in paths if other is not path]) for path in paths])
    return stack_objects(clips, frames) if any(len(clip) > 1 for clip in clips) else []


def _apart(path: Path, centre_T2: np.ndarray) -> float:
    """Usual distance of a path from a track, px."""
    return float(np.median(np.linalg.norm(path.centre_P2 - centre_T2[path.frames_P], axis=1)))

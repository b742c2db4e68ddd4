"""One clip of the scoring command, read: a Video with what the options say of it, and which part of the file it is.

Axes: B = 1 clip, T frames, N objects, H rows, W columns.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_physics.files.footage import Clock, Cut, Footage, Frames, clock_of
from reward_physics.files.readers import LARGEST_CLIP
from reward_physics.video import Video
from rewards.score.cutting import MEASURED_WHOLE, cut_of
from rewards.score.inputs import masks_from


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """A clip as it is measured.

    Args:
        video: the frames that are measured.
        clock: when the frames of the file were taken.
        numbers: their first and last number in the file.
        cut: the part of the clip that they are, or None for all of it.
    """

    video: Video
    clock: Clock
    numbers: tuple[int, int]
    cut: Cut | None

    @property
    def scale(self) -> float:
        """Pixels of the video per pixel of the clip."""
        return 1.0 if self.cut is None else self.cut.scale

    def in_clip_px(self, place: tuple[float, float]) -> list[float]:
        """A place in the video as (u, v) in the clip, px."""
        cut = self.cut
        return list(place) if cut is None else [cut.left + place[0] / cut.scale, cut.top + place[1] / cut.scale]

    @property
    def notes(self) -> list[str]:
        """What the reader should know of the part and of the clock."""
        notes = [] if self.clock.note is None else [self.clock.note]
        cut = self.cut
        if cut is not None:
            every = "" if cut.numbers.step == 1 else f", every {cut.numbers.step}th"
            size = "" if cut.scale == 1 else f" at {cut.scale:.2g} of their size"
            width, height = round(cut.width_px / cut.scale), round(cut.height_px / cut.scale)
            notes.append(
                f"the clip is large: measured in frames {cut.numbers[0]} to {cut.numbers[-1]}{every}, "
                f"in {width} x {height} px from ({cut.left}, {cut.top}){size}"
            )
        return notes


def read(
    path: str,
    options: argparse.Namespace,
    *,
    by_motion: bool,
    saying: Callable[[str], object],
    tick: Callable[[], object],
) -> Reading:
    """Read a clip: all of it where it is small, else the part in which something flies.

    Args:
        by_motion: whether the object is found by its motion alone; else all of the picture is needed.
        saying: told what is being done.
        tick: called at every frame that is read.

    Raises:
        ValueError: anything wrong, in one line.
    """
    first, last = options.frames or (0, None)
    footage = Footage(path=Path(path), first=first, last=last, tick=tick)
    saying("reading")
    clock = clock_of(footage, options.fps)
    frames, cut, masks = footage.whole(most=MEASURED_WHOLE if by_motion else LARGEST_CLIP), None, None
    if frames is None and not by_motion:
        raise ValueError(
            f"{path}: its frames do not fit in memory: cut it, choose some with --frames, or take a recipe with "
            "mask: motion"
        )
    height, width = footage.size
    if options.mask is not None:
        masks = masks_from(options.mask, height, width)
    if frames is None:
        cut = cut_of(footage, clock, None if masks is None else masks.amax(0), saying)
        saying("reading")
        frames = footage.cut(cut)
    return Reading(
        video=_video(frames, clock, cut, options, masks, (height, width)),
        clock=clock,
        numbers=(int(frames.numbers_T[0]), int(frames.numbers_T[-1])),
        cut=cut,
    )


def _video(
    frames: Frames,
    clock: Clock,
    cut: Cut | None,
    options: argparse.Namespace,
    masks_NHW: Tensor | None,
    size: tuple[int, int],
) -> Video:
    times_T = clock.times_of(frames)
    camera = None if options.camera is None else options.camera.build(*size)
    px_per_m, every = options.px_per_m, 1
    if cut is not None:
        every = cut.numbers.step
        masks_NHW = None if masks_NHW is None else _cut_masks(masks_NHW, cut)
        px_per_m = None if px_per_m is None else px_per_m * cut.scale
        if camera is not None:
            camera = camera.part(cut.left, cut.top, height_px=cut.height_px, width_px=cut.width_px, scale=cut.scale)
    return Video(
        frames_BTCHW=frames.frames_TCHW[None],
        fps_B=torch.tensor([clock.fps / every]),
        frame_times_BT=None if times_T is None else times_T[None],
        camera=camera,
        first_mask_BHW=None if masks_NHW is None else masks_NHW[:1],
        object_masks_BNHW=None if masks_NHW is None or len(masks_NHW) < 2 else masks_NHW[None],
        px_per_m_B=None if px_per_m is None else torch.tensor([float(px_per_m)]),
        object_diameter_m_B=None
        if options.object_diameter_m is None
        else torch.tensor([float(options.object_diameter_m)]),
    )


def _cut_masks(masks_NHW: Tensor, cut: Cut) -> Tensor:
    """Masks of the whole picture as the cut shows them."""
    rows, columns = round(cut.height_px / cut.scale), round(cut.width_px / cut.scale)
    part = masks_NHW[:, None, cut.top : cut.top + rows, cut.left : cut.left + columns]
    return (F.interpolate(part, size=(cut.height_px, cut.width_px), mode="area")[:, 0] > 0.5).float()

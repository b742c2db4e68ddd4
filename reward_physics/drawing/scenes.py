"""Drawing one scene: film strips of several versions, a tracked object with its fitted arc and residuals.

Every function makes one picture and writes it (.png, .svg or .pdf, by the suffix).
Axes: T frames, C colours, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from reward_physics.drawing.charts import GREY, PALETTE, STYLE, TRUTH, WIDTH_IN, save_figure
from reward_physics.files.io import enlarge, to_uint8, upscale_factor


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One row of a film strip."""

    label: str
    frames_TCHW: Tensor
    """RGB in [0, 1]."""
    note: str = ""
    """A second line under the label, such as the measured g."""
    colour: str = TRUTH


def film_strip(
    path: str | Path,
    strips: Sequence[Strip],
    *,
    times_s: Sequence[float],
    frames: Sequence[int],
    true_rows_px: Sequence[float] | None = None,
    title: str = "",
) -> Path:
    """The same scene in several versions, one row each, the chosen frames side by side.

    Args:
        strips: rows from top to bottom; clips of one size and length.
        times_s: time of every frame, s.
        frames: which frames to show.
        true_rows_px: the row (v, px) of the true object's centre in every frame, ticked at both borders: a late
            fall is seen at a glance.
    """
    if not strips:
        raise ValueError("a film strip needs at least one row of frames")
    label_in, rows, columns = 1.35, len(strips), len(frames)
    height_px, width_px = strips[0].frames_TCHW.shape[-2:]
    cell_in = (WIDTH_IN - label_in) / columns
    size = (WIDTH_IN, rows * cell_in * height_px / width_px + 0.3 + (0.35 if title else 0))
    with rc_context(STYLE):
        figure = Figure(figsize=size)
        grid = figure.add_gridspec(
            rows, columns, left=label_in / WIDTH_IN, right=1, bottom=0.3 / size[1],
            top=1 - (0.35 / size[1] if title else 0), wspace=0.03, hspace=0.03,
        )  # fmt: skip
        for row, strip in enumerate(strips):
            for column, frame in enumerate(frames):
                axes = figure.add_subplot(grid[row, column])
                _show(axes, strip.frames_TCHW[frame])
                if true_rows_px is not None and math.isfinite(true_rows_px[frame]):
                    level = 1 - true_rows_px[frame] / height_px
                    for start, stop in ((0.0, 0.09), (0.91, 1.0)):
                        axes.plot([start, stop], [level, level], color="white", lw=3.2, transform=axes.transAxes)
                        axes.plot([start, stop], [level, level], color=TRUTH, lw=1.4, transform=axes.transAxes)
                if column == 0:
                    _row_label(axes, strip)
                if row == rows - 1:
                    axes.set_xlabel(f"{times_s[frame]:.2f} s", fontsize=9, labelpad=3)
        if title:
            figure.text(0.006, 1 - 0.1 / size[1], title, fontsize=11, fontweight="bold", va="top")
        return save_figure(figure, path)


def tracked_object(
    path: str | Path,
    frames_TCHW: Tensor,
    *,
    centroid_T2: np.ndarray,
    fitted_T2: np.ndarray,
    used_T: np.ndarray,
    times_s: np.ndarray,
    height_m: np.ndarray,
    fitted_height_m: np.ndarray,
    title: str = "",
) -> Path:
    """One clip with its tracked object, the fitted arc, and what the fit leaves over.

    Args:
        centroid_T2, fitted_T2: measured and fitted (u, v), px; NaN where there is none.
        used_T: whether the frame entered the fit.
        height_m, fitted_height_m: height of the object's centre, m, over `times_s`.
    """
    used = np.asarray(used_T, dtype=bool)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.5), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.35), height_ratios=(2.4, 1))
        picture = figure.add_subplot(grid[:, 0])
        height_px, width_px = frames_TCHW.shape[-2:]
        _show(picture, stroboscope(frames_TCHW, spaced(centroid_T2, used, least_px=0.22 * height_px)))
        scale = upscale_factor(height_px, width_px, min_side_px=256)
        picture.plot(*(fitted_T2[used] * scale - 0.5).T, color="white", lw=3.4)
        picture.plot(*(fitted_T2[used] * scale - 0.5).T, color=PALETTE[1], lw=1.6, label="fitted arc")
        for chosen, face, label in ((used, PALETTE[0], "in the fit"), (~used, "none", "left out")):
            picture.scatter(
                *(centroid_T2[chosen] * scale - 0.5).T, s=22, facecolors=face, edgecolors="white", lw=0.9, label=label,
                zorder=3,
            )  # fmt: skip
        heights = figure.add_subplot(grid[0, 1])
        heights.plot(times_s[used], fitted_height_m[used], color=PALETTE[1], lw=1.6, label="fitted arc")
        heights.scatter(times_s[used], height_m[used], s=20, color=PALETTE[0], zorder=3, label="in the fit")
        heights.scatter(times_s[~used], height_m[~used], s=20, facecolors="none", edgecolors=GREY, label="left out")
        heights.set(ylabel="height (m)", title=title)
        heights.tick_params(labelbottom=False)
        heights.legend(fontsize=8, loc="lower left")
        residuals = figure.add_subplot(grid[1, 1], sharex=heights)
        draw_residuals(residuals, times_s[used], height_m[used] - fitted_height_m[used])
        return save_figure(figure, path)


def draw_residuals(axes: Axes, times_s: np.ndarray, residual_m: np.ndarray) -> None:
    """What a fit leaves over, in centimetres over seconds, into given axes."""
    axes.axhline(0, color=TRUTH, lw=0.8)
    axes.vlines(times_s, 0, residual_m * 100, color=PALETTE[0], lw=1.4)
    axes.scatter(times_s, residual_m * 100, s=14, color=PALETTE[0], zorder=3)
    axes.set(xlabel="time (s)", ylabel="residual (cm)")


def spaced(centroid_T2: np.ndarray, used_T: np.ndarray, *, least_px: float) -> np.ndarray:
    """Of the used frames those whose object has moved by at least `least_px` since the one before."""
    chosen = np.zeros(len(used_T), dtype=bool)
    last = None
    for frame in np.flatnonzero(used_T & np.isfinite(centroid_T2).all(1)):
        if last is None or np.linalg.norm(centroid_T2[frame] - last) >= least_px:
            chosen[frame], last = True, centroid_T2[frame]
    return chosen


def stroboscope(frames_TCHW: Tensor, used_T: np.ndarray) -> Tensor:
    """All used frames in one picture: at each pixel the frame that differs most from the clip's median."""
    plate_CHW = frames_TCHW.median(0).values
    chosen = frames_TCHW[np.flatnonzero(used_T)] if np.any(used_T) else frames_TCHW
    farthest_HW = (chosen - plate_CHW).abs().sum(1).argmax(0)
    return chosen.gather(0, farthest_HW.expand(1, *plate_CHW.shape))[0]


def video_grid(rows: Sequence[Sequence[Strip]], *, cell_px: int = 160, gap_px: int = 6) -> Tensor:
    """Clips as a grid that plays at once, each under its label and note; frames_TCHW in [0, 1].

    Args:
        rows: rows of clips of one size and length; an empty label draws none.
        cell_px: least side of a clip, reached by a whole factor.
    """
    from PIL import Image, ImageDraw, ImageFont

    frames = rows[0][0].frames_TCHW
    factor = upscale_factor(*frames.shape[-2:], min_side_px=cell_px)
    height, width = frames.shape[-2] * factor, frames.shape[-1] * factor
    text_px = max(18, height // 8)
    font = ImageFont.load_default(text_px * 0.72)
    columns = max(len(row) for row in rows)
    size = (gap_px + columns * (width + gap_px), gap_px + len(rows) * (height + text_px + gap_px))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    places = []
    for i, row in enumerate(rows):
        for j, strip in enumerate(row):
            left, top = gap_px + j * (width + gap_px), gap_px + i * (height + text_px + gap_px)
            words = "  ".join(part for part in (strip.label, strip.note) if part)
            draw.text((left, top + text_px * 0.1), words, fill=strip.colour, font=font)
            places.append((strip, left, top + text_px))
    grid = torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1).float().div(255).repeat(len(frames), 1, 1, 1)
    for strip, left, top in places:
        grid[:, :, top : top + height, left : left + width] = enlarge(strip.frames_TCHW.clamp(0, 1), factor)
    return grid


def _row_label(axes: Axes, strip: Strip) -> None:
    axes.text(-0.06, 0.56, strip.label, transform=axes.transAxes, ha="right", va="center", fontsize=10,
              fontweight="bold", color=strip.colour)  # fmt: skip
    axes.text(-0.06, 0.36, strip.note, transform=axes.transAxes, ha="right", va="center", fontsize=9, color="#30343b")


def _show(axes: Axes, frame_CHW: Tensor) -> None:
    """A frame without smoothing, ticks or frame."""
    height, width = frame_CHW.shape[-2:]
    big = enlarge(to_uint8(frame_CHW), upscale_factor(height, width, min_side_px=256)).permute(1, 2, 0)
    axes.imshow(big.cpu().numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[], xlim=(-0.5, big.shape[1] - 0.5), ylim=(big.shape[0] - 0.5, -0.5))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)

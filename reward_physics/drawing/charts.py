"""Charts over many clips and over training: falls against the true parabola, g of several arms, curves over steps.

Every function makes one picture and writes it (.png, .svg or .pdf, by the suffix). Colours are Okabe and Ito's, which
the colour-blind tell apart.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TRUTH, GREY = "#1a1a1a", "#8a8f98"
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
WIDTH_IN = 8.6
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555b65",
    "axes.labelcolor": "#30343b",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e7e9ee",
    "xtick.color": "#555b65",
    "ytick.color": "#555b65",
    "legend.frameon": False,
    "savefig.dpi": 170,
}


@dataclass(frozen=True, kw_only=True)
class Fall:
    """The falls of one arm: how far each object has dropped, over time."""

    label: str
    times_s: Sequence[np.ndarray]
    """One array of seconds since release per clip."""
    drops_m: Sequence[np.ndarray]
    """Metres below the point of release, of the same lengths."""
    g_m_s2: Sequence[float]
    """Measured g of each clip; NaN where it could not be measured."""
    colour: str = TRUTH


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What several instruments read on the clips of one arm."""

    label: str
    g_m_s2: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Instrument -> g of each clip, NaN where it could not be measured."""
    colour: str = TRUTH


def arm_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each arm: truth black, the autoencoder grey, the others in the palette's order."""
    fixed = {"truth": TRUTH, "autoencoder": GREY}
    arms = [name for name in names if name not in fixed]
    return fixed | {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(arms)}


def trajectories(path: str | Path, falls: Sequence[Fall], *, g_m_s2: float = 9.81, title: str = "") -> Path:
    """Drop over time of every clip at rest, one panel an arm, against the one true parabola of them all."""
    longest = max((float(times[-1]) for fall in falls for times in fall.times_s if len(times)), default=1.0)
    deepest = max((float(np.nanmax(drops)) for fall in falls for drops in fall.drops_m if len(drops)), default=1.0)
    longest, deepest = max(longest, 0.1), max(deepest, 0.01)
    true_s = np.linspace(0, min(longest, math.sqrt(2 * deepest * 1.1 / g_m_s2)), 60)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.4), layout="constrained")
        panels = figure.subplots(1, max(1, len(falls)), sharex=True, sharey=True, squeeze=False)[0]
        for axes, fall in zip(panels, falls, strict=False):
            for times, drops in zip(fall.times_s, fall.drops_m, strict=True):
                axes.plot(times, drops, color=fall.colour, lw=0.9, alpha=0.35)
            g = np.asarray(fall.g_m_s2, dtype=float)
            if np.isfinite(g).any():
                median = float(np.nanmedian(g))
                median_s = true_s if median > g_m_s2 else np.linspace(0, longest, 60)
                axes.plot(median_s, median * median_s**2 / 2, color=fall.colour, lw=2.6, label=f"median {median:.2f}")
            axes.plot(true_s, g_m_s2 * true_s**2 / 2, color=TRUTH, lw=1.8, ls=(0, (4, 2)), label=f"true {g_m_s2:.2f}")
            axes.set(title=fall.label, xlabel="time since release (s)")
            axes.legend(title="g (m/s²)", fontsize=9, title_fontsize=9, loc="lower left", handlelength=2.4)
        panels[0].set(ylabel="drop (m)", ylim=(deepest * 1.05, -0.05 * deepest), xlim=(0, longest))
        if title:
            figure.suptitle(title, x=0.006, ha="left", fontsize=11, fontweight="bold")
        return save_figure(figure, path)


def g_by_arm(
    path: str | Path, arms: Sequence[Readings], *, g_m_s2: float = 9.81, tolerance: float = 0.15, title: str = ""
) -> Path:
    """g of every clip, one column an arm and instrument: the band is the truth and its tolerance, the bar the median.

    Clips that could not be measured are counted under the column.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.axhspan(g_m_s2 * (1 - tolerance), g_m_s2 * (1 + tolerance), color="#000000", alpha=0.07, lw=0)
        axes.axhline(g_m_s2, color=TRUTH, lw=1.2, ls=(0, (4, 2)))
        axes.text(1.005, g_m_s2, f"{g_m_s2:.2f}", transform=axes.get_yaxis_transform(), va="center", fontsize=9)
        centre, markers = 0.0, "osD^"
        for arm in arms:
            middle = centre + (len(arm.g_m_s2) - 1) / 2
            axes.text(middle, 1.02, arm.label, transform=axes.get_xaxis_transform(), ha="center", fontweight="bold",
                      color=arm.colour)  # fmt: skip
            for index, (instrument, values) in enumerate(arm.g_m_s2.items()):
                _swarm(
                    axes, centre + index, np.asarray(values, dtype=float), arm.colour, markers[index % 4], instrument
                )
            centre += len(arm.g_m_s2) + 0.6
        axes.set_xticks([])
        axes.set(ylabel="measured g (m/s²)", ylim=(min(0.0, axes.get_ylim()[0]), None))
        axes.set_title(title, pad=22)
        return save_figure(figure, path)


def paired_g(
    path: str | Path,
    before: Readings,
    after: Readings,
    *,
    instrument: str,
    g_m_s2: float = 9.81,
    tolerance: float = 0.15,
    title: str = "",
) -> Path:
    """g of every clip in one arm over another's, one dot a scene and noise; above the diagonal g has grown."""
    x, y = (np.asarray(arm.g_m_s2[instrument], dtype=float) for arm in (before, after))
    both = np.isfinite(x) & np.isfinite(y)
    top = max([g_m_s2 * 1.3, *x[both], *y[both]]) * 1.04
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.4), layout="constrained")
        axes = figure.subplots()
        axes.axhspan(g_m_s2 * (1 - tolerance), g_m_s2 * (1 + tolerance), color="#000000", alpha=0.07, lw=0)
        axes.axhline(g_m_s2, color=TRUTH, lw=1.2, ls=(0, (4, 2)))
        axes.plot([0, top], [0, top], color=GREY, lw=1)
        axes.scatter(x[both], y[both], s=22, color=after.colour, alpha=0.7, linewidths=0)
        axes.set(xlabel=f"g (m/s²), {before.label}", ylabel=f"g (m/s²), {after.label}", title=title)
        axes.set(xlim=(min(0.0, *x[both], 0.0), top), ylim=(min(0.0, *y[both], 0.0), top))
        return save_figure(figure, path)


def curves(
    path: str | Path,
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    *,
    xlabel: str = "step",
    smooth: int = 1,
    references: Mapping[str, float] | None = None,
    title: str = "",
) -> Path:
    """Lines over steps, one panel a quantity: the raw line thin, its running mean over `smooth` points bold.

    Args:
        panels: panel title -> line label -> (x, y).
        references: panel title -> a level drawn dashed, such as 9.81.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.9), layout="constrained")
        row = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
        for axes, (name, lines) in zip(row, panels.items(), strict=False):
            for colour, (label, (x, y)) in zip(PALETTE[1:] + PALETTE[:1], lines.items(), strict=False):
                values = np.asarray(y, dtype=float)
                axes.plot(x, values, color=colour, lw=1, alpha=0.3 if smooth > 1 else 1)
                axes.plot(x, running_mean(values, smooth), color=colour, lw=2, label=label)
            if references and name in references:
                axes.axhline(references[name], color=TRUTH, lw=1.2, ls=(0, (4, 2)))
            axes.set(title=name, xlabel=xlabel)
            if len(lines) > 1:
                axes.legend(fontsize=8)
        if title:
            figure.suptitle(title, x=0.006, ha="left", fontsize=11, fontweight="bold")
        return save_figure(figure, path)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over a centred window of `width` values, shorter at the ends; NaN values are left out."""
    half = max(0, width // 2)
    windows = [values[max(0, index - half) : index + half + 1] for index in range(len(values))]
    return np.array([np.nanmean(window) if np.isfinite(window).any() else np.nan for window in windows])


def _swarm(axes: Axes, x: float, values: np.ndarray, colour: str, marker: str, label: str) -> None:
    """Dots spread sideways by their rank (no chance involved), the median as a bar, the missing counted below."""
    finite = np.sort(values[np.isfinite(values)])
    spread = ((np.arange(len(finite)) * 0.618034) % 1 - 0.5) * 0.62
    axes.scatter(x + spread, finite, s=16, color=colour, alpha=0.55, marker=marker, linewidths=0)
    if len(finite):
        axes.plot([x - 0.38, x + 0.38], [np.median(finite)] * 2, color=colour, lw=2.6, solid_capstyle="round")
    missing = len(values) - len(finite)
    caption = f"{label}\n{np.median(finite):.2f}" if len(finite) else label
    caption += f"\n{missing} unmeasured" if missing else ""
    axes.text(
        x, -0.015, caption, transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=8, color="#30343b"
    )


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure, whole or not at all; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        figure.savefig(partial, facecolor="white")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path

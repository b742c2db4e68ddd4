"""The figures of one clip of a fall: what the instruments read against the truth of its scene.

They stand here and not in the world, since they compare what a judge's instruments read, and `data` knows no judges.
Any world whose truth is a `TrueFall` can have them: its `report` is `falls`.

Axes: T frames, C colours, H W pixels, 3 coordinates (m, z up).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from reward_physics.camera import Camera
from reward_physics.figures import metrics, published
from reward_physics.figures.image_quality import background_psnr_db, colour_shift, sharpness_ratio
from reward_physics.figures.metrics import STANDARD_G_M_S2
from trainers.evaluation.readings import Reading

LANDED = 0.9
"""Share of the true fall after which a clip has landed: what a model makes often touches down without a sharp end."""


class TruePath(Protocol):
    """The first object of a scene under one gravity; axes as below."""

    @property
    def mask_THW(self) -> Tensor: ...
    @property
    def position_T3(self) -> Tensor: ...
    @property
    def centroid_T2(self) -> Tensor: ...
    @property
    def impact_s(self) -> float: ...


class TrueFall(Protocol):
    """A scene whose fall is known under any gravity: the truth of a world of falls."""

    camera: Camera

    def at(self, g_m_s2: float) -> TruePath: ...


def landing_time(height_T: Tensor, time_T: Tensor, level_m: float) -> float:
    """When a track first comes down to a height, in s, along straight lines between the frames in which it is seen.

    Args:
        height_T: m, NaN where the object is not seen.
        time_T: s.
    Returns:
        NaN where it never comes so low.
    """
    seen_T = torch.isfinite(height_T)
    heights, times = height_T[seen_T].tolist(), time_T[seen_T].tolist()
    for i, height in enumerate(heights):
        if height <= level_m:
            if i == 0:
                return times[0]
            share = (heights[i - 1] - level_m) / (heights[i - 1] - height)
            return times[i - 1] + share * (times[i] - times[i - 1])
    return math.nan


def shape_figures(reading: Reading, scene: TrueFall) -> dict[str, float]:
    """Area ratio and aligned IoU over the free flight, against the scene under the clip's own fitted g.

    NaN where g could not be measured or nothing of the flight is seen.
    """
    figures = {"area_ratio": math.nan, "aligned_iou": math.nan}
    if not math.isfinite(reading.g_m_s2):
        return figures
    own = scene.at(reading.g_m_s2)
    free_T = reading.free_T & (reading.time_T < own.impact_s) & (own.mask_THW.sum((1, 2)) > 0)
    if free_T.any():
        seen, shape = reading.mask_THW[free_T], own.mask_THW[free_T]
        figures["area_ratio"] = metrics.nan_median(metrics.area_ratio(seen, shape))
        figures["aligned_iou"] = float(metrics.aligned_iou(seen, shape).mean())
    return figures


def instrument_figures(reading: Reading, scene: TrueFall, *, g_m_s2: float) -> dict[str, Any]:
    """The figures of one clip by one instrument.

    Args:
        scene: the clip's scene.
        g_m_s2: the gravity that would be right: 9.81, or the clip's own where it is a true clip.
    Returns:
        g, its standard error and relative error, and the g that has this error beside 9.81; position error over all
        frames and over those up to the true impact; unaligned IoU and Chamfer against the scene under the right gravity
        over all frames, each as `metrics` and as published tables define it, and the share of frames from which the
        object has vanished; area ratio and aligned IoU against the scene under the clip's own fitted g over the free
        flight (NaN where g could not be measured); landing time, measured and true, by `LANDED`; energy gained,
        restitution, Galileo's ratio and collision consistency, NaN where there is nothing to measure. All are NaN for
        an instrument that is blind.
    """
    if reading.blind:
        return {"reason": reading.reason} | dict.fromkeys(NUMBERS, math.nan)
    right = scene.at(g_m_s2)
    fall_m = float(right.position_T3[0, 2] - right.position_T3[:, 2].min())
    position, true = reading.position_T3[None], right.position_T3[None]
    centroid = reading.centroid_T2[None]
    diagonal_px = math.hypot(scene.camera.height_px, scene.camera.width_px)
    landed_m = float(right.position_T3[0, 2]) - LANDED * fall_m
    falls_T = reading.time_T <= right.impact_s  # how it bounces afterwards, no first frame tells
    mask, true_mask = reading.mask_THW, right.mask_THW
    figures: dict[str, Any] = {
        "g_m_s2": reading.g_m_s2,
        "stderr_m_s2": reading.stderr_m_s2,
        "reason": reading.reason,
        "g_scaled_m_s2": reading.g_m_s2 * STANDARD_G_M_S2 / g_m_s2,
        "g_error": abs(reading.g_m_s2 - g_m_s2) / g_m_s2,
        "trajectory_l2_m": float(metrics.trajectory_l2(position, true, missing=max(fall_m, 0.1))),
        "fall_l2_m": float(metrics.trajectory_l2(position[:, falls_T], true[:, falls_T], missing=max(fall_m, 0.1))),
        "trajectory_l2_px": float(metrics.trajectory_l2(centroid, right.centroid_T2[None], missing=diagonal_px)),
        **mask_figures(mask, true_mask),
        "landing_s": landing_time(reading.position_T3[:, 2], reading.time_T, landed_m),
        "true_landing_s": landing_time(right.position_T3[:, 2], reading.time_T, landed_m),
        "energy_rise": reading.energy_rise,
        "restitution": reading.restitution,
        "galileo": reading.galileo,
        "collision": reading.collision,
    }
    return figures | shape_figures(reading, scene)


NUMBERS = (
    *("g_m_s2", "stderr_m_s2", "g_scaled_m_s2", "g_error", "trajectory_l2_m", "fall_l2_m", "trajectory_l2_px"),
    *("published_l2", "iou", "published_iou", "chamfer_px", "published_chamfer", "vanished"),
    *("landing_s", "true_landing_s", "energy_rise", "restitution", "galileo", "collision"),
    *("area_ratio", "aligned_iou"),
)
"""Names of `instrument_figures`, but for the reason."""


PICTURE = ("background_psnr_db", "sharpness", "colour_shift")
"""Names of `picture_figures`."""


def picture_figures(frames_TCHW: Tensor, reading: Reading) -> dict[str, float]:
    """The image-quality guard of one clip, with the masks of one instrument."""
    free_T = reading.free_T if reading.free_T.any() else torch.ones_like(reading.free_T)
    return {
        "background_psnr_db": background_psnr_db(frames_TCHW, reading.mask_THW),
        "sharpness": sharpness_ratio(frames_TCHW, reading.mask_THW, free_T),
        "colour_shift": colour_shift(frames_TCHW, reading.mask_THW, free_T),
    }


def clip_figures(
    frames_TCHW: Tensor, readings: Mapping[str, Reading], scene: TrueFall, *, g_m_s2: float
) -> dict[str, Any]:
    """All figures of one clip: those of each instrument under its name, and how far two instruments part company.

    The last instrument named is the judge. The picture is judged with its masks, or with those of the instrument before
    where the judge is blind.
    """
    figures: dict[str, Any] = {"true_g_m_s2": g_m_s2}
    for name, reading in readings.items():
        figures[name] = instrument_figures(reading, scene, g_m_s2=g_m_s2)
    g = torch.tensor([reading.g_m_s2 for reading in readings.values()])
    figures["disagreement"] = float(metrics.instrument_disagreement(g[:1], g[-1:])[0])
    seeing = [reading for reading in readings.values() if not reading.blind]
    return figures | (picture_figures(frames_TCHW, seeing[-1]) if seeing else dict.fromkeys(PICTURE, math.nan))


def mask_figures(mask_THW: Tensor, true_THW: Tensor) -> dict[str, float]:
    """IoU and Chamfer distance over all frames, the published L2, IoU and Chamfer, and the share of frames vanished.

    Args:
        mask_THW, true_THW: one object, soft or binary; object from 0.5 up.

    Returns:
        Means over the frames; `vanished` counts frames that show the true object and not the clip's.
    """
    chamfer = [metrics.chamfer_px(mask_HW, true_HW) for mask_HW, true_HW in zip(mask_THW, true_THW, strict=True)]
    here_T = true_THW.sum((1, 2)) > 0
    gone_T = (mask_THW >= 0.5).sum((1, 2)) == 0
    return {
        "published_l2": published.published_l2(mask_THW, true_THW),
        "iou": float(metrics.mask_iou(mask_THW, true_THW).mean()),
        "published_iou": published.published_iou(mask_THW[:, None], true_THW[:, None]),
        "chamfer_px": sum(chamfer) / len(chamfer),
        "published_chamfer": published.published_chamfer(mask_THW, true_THW),
        "vanished": float(gone_T[here_T].double().mean()) if here_T.any() else math.nan,
    }

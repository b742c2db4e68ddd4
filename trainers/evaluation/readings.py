"""What an instrument reads on a batch of falls; nothing, with the reason, where it follows no object in metres.

Axes: B clips, T frames, H W pixels, 3 coordinates (m, z up).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reward_physics.laws.bounces import measure_bounces
from reward_physics.laws.energy import measure_energy
from reward_physics.laws.galileo import measure_galileo
from reward_physics.observation import Observation
from reward_physics.video import Video
from rewards.bodies.collision import collision


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one instrument sees of one clip; on the CPU, without graph."""

    g_m_s2: float
    """Downward acceleration of the free flight; NaN where it could not be measured."""
    stderr_m_s2: float
    reason: str | None
    """Why it could not be measured, None where it could."""
    mask_THW: Tensor
    """The object, in [0, 1]."""
    free_T: Tensor
    """Frames of the free flight."""
    position_T3: Tensor
    """The object's centre, m; NaN where it is not seen."""
    fitted_T3: Tensor
    """The fitted parabola at every frame, m."""
    centroid_T2: Tensor
    """The object's centre in the picture, px; NaN where it is not seen."""
    time_T: Tensor
    """s."""
    energy_rise: float = math.nan
    """Head gained at impacts and elsewhere, in shares of the first; NaN without a second piece of motion."""
    restitution: float = math.nan
    """Speed after over speed before the first bounce; NaN without one."""
    galileo: float = math.nan
    """Four times the height fallen in the first half of a fall from rest over that of the whole: 1 where g is even."""
    collision: float = math.nan
    """Reward of collision consistency, at most 0; NaN without two bodies that meet."""
    blind: bool = False
    """Whether the instrument can follow no object in metres at all, whatever the clip."""


def why_blind(observation: Any) -> str | None:
    """Why nothing falls before this judge's instruments, None where they give positions in metres."""
    if not isinstance(observation, Observation):
        return "the judge follows no object"
    try:
        observation.camera_for_metres()
        _ = observation.mask_BTHW
    except ValueError as error:
        return str(error)
    return None


def blind_readings(video: Video, reason: str) -> list[Reading]:
    """Readings of a judge that follows no object: nothing is known, for the reason given."""
    frames, height, width = video.num_frames, video.height_px, video.width_px
    return [
        Reading(
            g_m_s2=math.nan,
            stderr_m_s2=math.nan,
            reason=reason,
            mask_THW=torch.zeros(frames, height, width),
            free_T=torch.zeros(frames, dtype=torch.bool),
            position_T3=torch.full((frames, 3), math.nan),
            fitted_T3=torch.full((frames, 3), math.nan),
            centroid_T2=torch.full((frames, 2), math.nan),
            time_T=time_T.float().cpu(),
            blind=True,
        )
        for time_T in video.times_BT
    ]


def read(observation: Observation) -> list[Reading]:
    """One reading per clip."""
    fit, track, arc = observation.fit, observation.track, observation.arc
    seen_BT1 = (track.weight_BT > 0.1)[..., None]
    mask_BTHW = observation.mask_BTHW * track.image.window_BTHW
    fitted_BT3 = fit.position_at(track.time_BT)
    stderr_B = fit.accel_cov_B33[:, 2, 2].clamp(min=0).sqrt()
    energy, bounces = measure_energy(observation.flights), measure_bounces(observation.flights)
    collision_B = collision(observation) if _two_bodies(observation) else stderr_B.new_full(stderr_B.shape, math.nan)
    galileo = measure_galileo(observation.flights)

    def at(values: Tensor, clip: int) -> Tensor:
        return values[clip].detach().float().cpu()

    return [
        Reading(
            g_m_s2=-float(fit.accel_B3[clip, 2]) if fit.measurable_B[clip] else math.nan,
            stderr_m_s2=float(stderr_B[clip]) if fit.measurable_B[clip] else math.nan,
            reason=fit.reasons[clip],
            mask_THW=at(mask_BTHW, clip),
            free_T=at(arc.weights_BT, clip) > 0,
            position_T3=at(torch.where(seen_BT1, track.position_BT3, torch.nan), clip),
            fitted_T3=at(fitted_BT3, clip),
            centroid_T2=at(torch.where(seen_BT1, track.centroid_BT2, torch.nan), clip),
            time_T=at(track.time_BT, clip),
            energy_rise=float(energy.rise_B[clip]) if energy.rise_measured_B[clip] else math.nan,
            restitution=_first(bounces.by_speed_BK[clip], bounces.measured_BK[clip]),
            galileo=_first(galileo.fall_ratio_BK[clip], galileo.fall_measured_BK[clip]),
            collision=float(collision_B[clip]),
        )
        for clip in range(observation.batch_size)
    ]


def _two_bodies(observation: Observation) -> bool:
    """Whether any clip shows a second object in its first frame."""
    objects = observation.video.object_masks_BNHW
    return objects is not None and bool((objects[:, 1:] > 0).any())


def _first(values_K: Tensor, measured_K: Tensor) -> float:
    """The first measured value, NaN where there is none."""
    known = values_K[measured_K]
    return float(known[0]) if len(known) else math.nan

"""One clip's measurements in plain numbers: g with its interval, energy, restitution, and why what is missing is so.

Axes: B = 1 clip, T frames, K pieces of its path.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from reward_physics.laws.bounces import measure_bounces
from reward_physics.laws.energy import measure_energy
from reward_physics.laws.flights import Flights, find_flights
from reward_physics.laws.galileo import measure_galileo
from reward_physics.objects.linking import visible_step
from reward_physics.observation import Observation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What was read off one clip.

    Args:
        numbers: JSON's values, `g_m_s2` first; None where something cannot be measured.
        missing: what cannot be measured -> why.
        flights: the pieces of the path, in metres or in pixels.
        unit: `m` or `px`.
    """

    numbers: dict[str, Any]
    missing: dict[str, str]
    flights: Flights
    unit: str


@torch.no_grad()
def summarise(
    observation: Observation, *, in_metres: bool, no_metres: str | None = None, scale: float = 1.0
) -> Summary:
    """Summarise an observation of one clip.

    Args:
        observation: with metres, or with pixels standing for them (`px_per_m_B` of one).
        in_metres: which of the two.
        no_metres: why there are none.
        scale: pixels of the observation per pixel of the clip; what is given in pixels is in the clip's.
    """
    fit, missing = observation.fit, {}
    why = fit.reasons[0]
    measured = bool(fit.measurable_B[0])
    low, high = (float(x[0]) for x in fit.g_interval())
    g = float(fit.g_m_s2_B[0])
    noise = observation.centroid_noise_px() / observation.least_noise_px()
    trajectory = observation.trajectory
    trajectory = dataclasses.replace(trajectory, sigma_B=trajectory.sigma_B * noise.to(trajectory.sigma_B))
    flights = find_flights(trajectory, min_frames=observation.instruments.min_frames)
    if measured and not bool(flights.flies_B[0]) and _is_level(observation):
        measured, why = False, "no free flight: the object goes along a level line, as what rolls or slides does"
    if not in_metres:
        missing["g_m_s2"] = no_metres or "no scale"
    elif not measured:
        missing["g_m_s2"] = why or "unknown"
    known = in_metres and measured
    numbers: dict[str, Any] = {
        "g_m_s2": g if known else None,
        "g_low_m_s2": low if known else None,
        "g_high_m_s2": high if known else None,
        "acceleration_m_s2": fit.accel_B3[0].tolist() if known else None,
        "frames_in_flight": int(fit.num_frames_B[0]),
    }
    numbers["unit_free"] = _unit_free(observation, flights, measured, why, missing)
    numbers["energy_drift"] = _energy(flights, 9.81 if in_metres else None, measured, missing)
    per_px = float(observation.track.metres_per_px_BT.median())
    if not in_metres:
        numbers["acceleration_px_s2"] = g / scale if measured else None
        if not measured:
            missing["acceleration_px_s2"] = why or "unknown"
    else:
        numbers["speed_at_mid_flight_m_s"] = float(fit.velocity_B3[0].norm()) if measured else None
    speed = _usual_speed_px_s(observation)
    numbers["speed_m_s"] = None if speed is None or not in_metres else speed * per_px
    numbers["speed_px_s"] = None if speed is None else speed / scale
    numbers["px_per_m"] = 1 / per_px / scale if in_metres else None
    numbers["object_diameter_px"] = (float(observation.diameter_px_BT[0].max()) and _typical(observation)) / scale
    return Summary(numbers=_plain(numbers), missing=missing, flights=flights, unit="m" if in_metres else "px")


def _is_level(observation: Observation) -> bool:
    """Whether the fitted path bends away from its chord by less than a twentieth of its length."""
    time = observation.trajectory.time_BT[0][observation.arc.weights_BT[0] > 0]
    seconds, fit = float(time[-1] - time[0]), observation.fit
    bend = float(fit.accel_B3[0].norm()) * seconds**2 / 8
    return bend < 0.05 * float(fit.velocity_B3[0].norm()) * seconds


def _usual_speed_px_s(observation: Observation) -> float | None:
    """Median speed of the object over the frames that show it, in flight or not; None where there is none."""
    if observation.found.reasons[0] is not None:
        return None
    # A border that cuts the object takes its place from g; its speed along the border is still to be seen.
    used = observation.image_track.visible_BT[0] > 0.5
    centre = observation.image_track.centroid_BT2[0][used].double().cpu().numpy()
    time = observation.video.times_BT[0][used].cpu().numpy()
    if len(time) < 2:
        return None
    step = min(len(time) - 1, visible_step(centre))
    moved = np.linalg.norm(centre[step:] - centre[:-step], axis=1)
    return float(np.median(moved / (time[step:] - time[:-step])))


def _typical(observation: Observation) -> float:
    from reward_physics.tracks.scale import typical_diameter_px

    return float(typical_diameter_px(observation.diameter_px_BT, observation.image_track.weight_BT)[0])


def _unit_free(observation, flights: Flights, measured: bool, why: str | None, missing: dict[str, str]) -> dict:
    """Quantities that no scale changes."""
    fit = observation.fit
    accel = fit.accel_B3[0].double()
    residual = direction = None
    if measured:
        used = observation.arc.weights_BT[0] > 0
        path = observation.track.position_BT3[0][used].double()
        extent = float((path.amax(0) - path.amin(0)).norm())
        residual = float(fit.residual_rms_B[0]) / extent if extent > 0 else None
        if float(accel.norm()) > 2 * float(fit.g_stderr_m_s2_B[0]):
            direction = math.degrees(math.atan2(float(accel[:2].norm()), -float(accel[2])))
        else:
            missing["direction_from_down_deg"] = "no acceleration that can be told from zero"
    else:
        missing["arc_residual"] = why or "unknown"
    bounces, galileo = measure_bounces(flights), measure_galileo(flights)
    # Without a turn upwards the two pieces are one flight that was cut, or a kick: no bounce.
    restitution = _first(bounces.by_speed_BK, bounces.measured_BK & (bounces.by_speed_BK > 0))
    ratio = _first(galileo.fall_ratio_BK, galileo.fall_measured_BK)
    ratio = _first(galileo.between_BK, galileo.between_measured_BK) if ratio is None else ratio
    if ratio is None and measured:
        ratio = _about_apex(observation)
    if restitution is None:
        missing["restitution"] = "no impact between two flights is seen"
    if ratio is None:
        missing["galileo_ratio"] = "no fall from rest or from an apex, and no two flights beside an impact"
    return {
        "arc_residual": residual,
        "direction_from_down_deg": direction,
        "galileo_ratio": ratio,
        "restitution_by_speed": restitution,
        "restitution_by_height": _first(bounces.by_height_BK, bounces.three_BK),
        "restitution_by_time": _first(bounces.by_time_BK, bounces.three_BK),
        "flights": int(flights.flight_BK[0].sum()),
    }


def _about_apex(observation: Observation) -> float | None:
    """Galileo's ratio of the fall from (or the climb to) the apex, from the positions themselves:

        4 h(tau / 2) / h(tau),   1 by the law,

    with h the distance below the apex a time tau from it, averaged over the sides that last four frames or more.
    """
    fit, used = observation.fit, observation.arc.weights_BT[0] > 0
    time = observation.track.time_BT[0][used].double().numpy()
    height = observation.track.position_BT3[0, used, 2].double().numpy()
    g, v, middle = float(fit.g_m_s2_B[0]), float(fit.velocity_B3[0, 2]), float(fit.mid_time_B[0])
    if not g > 0:
        return None
    apex = middle + v / g
    top = float(fit.position_B3[0, 2]) + v * v / (2 * g)
    step = float(np.median(np.diff(time)))
    ratios = []
    for whole in (time[-1] - apex, time[0] - apex):
        if abs(whole) >= 4 * step and time[0] <= apex <= time[-1]:
            half, full = (top - float(np.interp(apex + share * whole, time, height)) for share in (0.5, 1.0))
            if full > 0:
                ratios.append(4 * half / full)
    return float(np.mean(ratios)) if ratios else None


def _energy(flights: Flights, g: float | None, measured: bool, missing: dict[str, str]) -> float | None:
    energy = measure_energy(flights, g=g)
    if measured and bool(energy.conserved_measured_B[0]):
        return float(energy.drift_B[0])
    without_scale = "one flight without a scale: its own g would make the drift circular"
    missing["energy_drift"] = without_scale if measured and g is None else "no flight with visible height"
    return None


def _first(value_BK, known_BK) -> float | None:
    known = known_BK[0].nonzero()[:, 0]
    return float(value_BK[0, known[0]]) if len(known) else None


def _plain(numbers: dict[str, Any]) -> dict[str, Any]:
    """NaN and infinity have no place in JSON."""
    clean: dict[str, Any] = {}
    for name, value in numbers.items():
        if isinstance(value, dict):
            clean[name] = _plain(value)
        else:
            clean[name] = None if isinstance(value, float) and not math.isfinite(value) else value
    return clean

"""Flights on the shipped validation clips, watched by colour with the true distance: impacts, energy, restitution."""

import dataclasses

import pytest
import torch

from data.rows import LIGHT_COLUMNS, collate, load_split, to_video
from reward_physics.laws.bounces import measure_bounces
from reward_physics.laws.energy import measure_energy
from reward_physics.laws.flights import find_flights
from reward_physics.observation import Instruments, Observation

INSTRUMENTS = Instruments(
    mask="appearance", known_distance=True, centroid_noise_px=0.35, line_of_sight_speed_m_s=0.0, depth_bias=0.005
)


@pytest.mark.slow
def test_impacts_energy_and_restitution_of_falls():
    rows = load_split("validation", columns=LIGHT_COLUMNS)
    flying = [n for n, kind in enumerate(rows["kind"]) if kind in ("drop", "bounce", "throw")]
    late_s, drift, rise, apart = [], [], [], []
    for first in range(0, len(flying), 16):
        batch = collate([rows[n] for n in flying[first : first + 16]])
        observation = Observation(to_video(batch), INSTRUMENTS, grad=False)
        flights, path = observation.flights, observation.trajectory
        assert flights.flies_B.all()
        true_s = torch.tensor([times[0] if times else torch.nan for times in batch["impact_times_s"]])
        late_s.append((flights.impact_time_BK[:, 0] - true_s).abs())
        for n, g in enumerate(batch["g_m_s2_B"].tolist()):
            drift.append(measure_energy(flights, g=g).drift_B[n])
        energy = measure_energy(flights, spin_share=1.0)
        rise.append(energy.rise_B[energy.rise_measured_B])
        truth = dataclasses.replace(
            path,
            position_BTD=batch["poses_BTN7"][:, :, 0, :3].double(),
            sigma_B=torch.full_like(path.sigma_B, 0.002),
            weight_BT=torch.ones_like(path.weight_BT),
            displacement_BSD=None,
        )
        seen, true = measure_bounces(flights), measure_bounces(find_flights(truth))
        both = seen.measured_BK[:, 0] & true.measured_BK[:, 0]
        apart.append((seen.by_speed_BK - true.by_speed_BK[:, :1])[both, 0].abs())
    late = torch.cat(late_s)
    late = late[~late.isnan()]
    drift, rise, apart = torch.stack(drift), torch.cat(rise), torch.cat(apart)
    print(f"\nimpacts {len(late)}: {late.median():.4f} s; drift {len(drift)}: {drift.median():.4f}")
    print(f"rises over 0.02: {(rise > 0).sum()} of {len(rise)}; restitution {len(apart)}: {apart.median():.4f}")
    assert len(late) >= 35 and late.median() < 0.01 and late.quantile(0.9) < 0.03
    assert drift.median() < 0.025 and drift.quantile(0.9) < 0.08
    assert len(rise) >= 35 and (rise > 0).double().mean() <= 0.03
    assert len(apart) >= 15 and apart.median() < 0.03

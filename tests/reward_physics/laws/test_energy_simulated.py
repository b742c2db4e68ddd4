"""Energy of bodies that a simulator moves: elastic spheres keep it, tumbling boxes may turn spin into height."""

import dataclasses

import pytest
import torch

from data.drops.ranges import Ranges
from data.drops.scenes import draw_scene
from data.drops.simulation import simulate
from reward_physics.laws.energy import measure_energy
from reward_physics.laws.flights import Flights, Trajectory, find_flights

FPS, FRAMES = 60.0, 75


def simulated(shape: str, count: int, restitution: tuple[float, float], kick_m_s: float = 0.0) -> Flights:
    """Drops of `shape`; a kick adds that much upward speed half-way through the fall."""
    ranges = Ranges(shapes=(shape,), kinds={"drop": 1.0}, height_m=(1.0, 1.4), restitution=restitution, fps=(FPS,))
    position = []
    for seed in range(count):
        scene = dataclasses.replace(draw_scene(seed, ranges, frames=FRAMES), g_m_s2=9.81)
        position.append(torch.as_tensor(simulate(scene).poses_TN7[:, 0, :3]))
    position = torch.stack(position)
    time = (torch.arange(FRAMES).double() / FPS).expand(count, -1)
    position[..., 2] += kick_m_s * (time - 0.2).clamp(min=0)
    return find_flights(
        Trajectory(
            time_BT=time,
            position_BTD=position,
            weight_BT=torch.ones(count, FRAMES),
            sigma_B=torch.full((count,), 0.002).double(),
            radius_B=torch.full((count,), 0.27).double(),
            unit="m",
            at_rest_B=torch.ones(count, dtype=torch.bool),
        )
    )


def test_spheres_keep_their_energy_in_flight_and_never_gain_any():
    energy = measure_energy(simulated("sphere", 16, (0.2, 0.97)), g=9.81)
    assert energy.conserved_measured_B.all() and energy.rise_measured_B.all()
    assert energy.drift_B.max() < 0.01
    assert (energy.rise_B == 0).all()


def test_boxes_gain_height_from_spin_and_that_is_no_error_where_it_is_allowed():
    flights = simulated("box", 24, (0.2, 0.7))
    strict = measure_energy(flights, g=9.81).rise_B
    tumbling = measure_energy(flights, g=9.81, spin_share=1.0).rise_B
    assert 0.1 < (strict > 0).double().mean() < 0.5 and strict.max() > 0.1
    assert (tumbling == 0).all()


@pytest.mark.parametrize("shape", ["sphere", "box"])
def test_a_kick_in_the_air_counts_whatever_may_tumble(shape):
    energy = measure_energy(simulated(shape, 8, (0.2, 0.7), kick_m_s=5.0), g=9.81, spin_share=1.0)
    assert (energy.rise_B > 0.2).all()

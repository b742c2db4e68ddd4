"""Laws that every smooth measurement keeps: its gradient is that of finite differences, all is finite at singular
points, clips do not know each other, and the type and device of the input are those of the result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from devices import SaysWhere
from paths import bounce, path, times
from torch import Tensor

from reward_physics.camera import Camera
from reward_physics.estimators.depth import align_inverse_depth
from reward_physics.laws import collisions, fields
from reward_physics.laws.bounces import measure_bounces
from reward_physics.laws.collisions import Pair
from reward_physics.laws.energy import measure_energy
from reward_physics.laws.flights import find_flights
from reward_physics.laws.galileo import measure_galileo
from reward_physics.laws.incline import measure_incline
from reward_physics.laws.kinematics import fit_arc
from reward_physics.laws.pendulum import measure_pendulum
from reward_physics.laws.projectile import measure_projectile
from reward_physics.laws.rigidity import measure_rigidity
from reward_physics.objects import masks
from reward_physics.objects.motion import find_moving
from reward_physics.tracks.in_image import robust_flow, surface_to_centre, track_in_image
from reward_physics.tracks.in_metres import centre_seen, fit_distance, place_at_distance
from reward_physics.tracks.zoom import follow_crops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A measurement, two clips that it is smooth at, and clips that it is not.

    Args:
        measure: (B, ...) -> (B, ...).
        clips: two of them, float64.
        singular: name -> clips where nothing can be read: no motion, an empty mask, one frame, at the border.
        rel: how near finite differences come; above 1e-4 where weights, durations or normals are detached by design.
        keeps_dtype: whether single precision stays single.
    """

    measure: Callable[[Tensor], Tensor]
    clips: Tensor
    singular: dict[str, Tensor]
    rel: float = 1e-4
    keeps_dtype: bool = True


def still(clips: Tensor) -> dict[str, Tensor]:
    """No motion, one frame, two frames."""
    return {"no motion": clips[:, :1].expand_as(clips), "one frame": clips[:, :1], "two frames": clips[:, :2]}


def of_flights(
    name: str, measure, first: Tensor, second: Tensor, *, rel: float = 1e-4, at_rest: bool | None = None
) -> Case:
    def value(position: Tensor) -> Tensor:
        return getattr(measure(find_flights(path(position, at_rest=at_rest))), name)

    clips = torch.cat((first, second))
    return Case(measure=value, clips=clips, singular=still(clips), rel=rel, keeps_dtype=name != "end_s_BK")


def thrown(g: float, vx: float, vz: float) -> Tensor:
    time = times(16)[0]
    return torch.stack((vx * time, vz * time - 0.5 * g * time.square()), dim=-1)[None]


def slid(a: float) -> Tensor:
    time = times(16)[0]
    return (0.5 * a * time.square())[:, None] * torch.tensor([math.cos(0.5), -math.sin(0.5)]).double()[None, None]


def swung(period_s: float) -> Tensor:
    phase = 2 * math.pi * times(40)[0] / period_s
    angle = 0.3 * phase.cos()
    return 0.5 * torch.stack((angle.sin(), 1 - angle.cos()), dim=-1)[None]


def collided(speed: float) -> Tensor:
    """(1, 2 bodies, T, 2)."""
    time = times(20)[0] - 0.4
    before = time < 0
    x1 = torch.where(before, speed * time, -0.2 * speed * time) - 0.35
    x2 = torch.where(before, 0 * time, 0.6 * speed * time)
    y = torch.where(before, 0 * time, 0.4 * time)
    return torch.stack((torch.stack((x1, -y), -1), torch.stack((x2, y), -1)))[None]


def pair_of(position: Tensor) -> Pair:
    batch, _, frames, _ = position.shape
    return Pair(
        time_BT=times(frames, batch),
        position_B2TD=position,
        weight_B2T=torch.ones(batch, 2, frames),
        radius_B2=torch.tensor([[0.15, 0.2]]).double().to(position).expand(batch, 2),
        longest_B2=torch.tensor([[0.15, 0.2]]).double().to(position).expand(batch, 2),
        sigma_B=torch.full((batch,), 1e-3).to(position),
    )


def jump_of(position: Tensor) -> collisions.Jump:
    """The jump with a normal that does not move with the track: it is detached by design."""
    jump = collisions.contact_jump(pair_of(position))
    return dataclasses.replace(jump, normal_BD=torch.tensor([1.0, 0.0]).to(position).expand(len(position), 2))


def discs(*radii: float, frames: int = 6, step: float = 2.0) -> Tensor:
    """Soft masks (B, T, 32, 40) of discs that move to the right; their edges are smooth."""
    v, u = torch.meshgrid(torch.arange(32).double() + 0.5, torch.arange(40).double() + 0.5, indexing="ij")
    clips = [
        torch.stack([torch.sigmoid(2 * (r - torch.hypot(u - 14 - step * t, v - 15.3))) for t in range(frames)])
        for r in radii
    ]
    return torch.stack(clips)


def empty_and_cut(clips: Tensor) -> dict[str, Tensor]:
    cut = torch.zeros_like(clips)
    cut[..., :6, :] = clips[..., 12:18, :]
    return {
        "empty mask": torch.zeros_like(clips),
        "full mask": torch.ones_like(clips),
        "at the border": cut,
        "one frame": clips[:, :1],
        "no motion": clips[:, :1].expand_as(clips),
    }


def rigidity_of(name: str) -> Case:
    clips = discs(5.0, 6.0)

    def value(mask: Tensor) -> Tensor:
        centre = torch.stack([torch.tensor([14.0 + 2 * t, 15.3]) for t in range(mask.shape[1])]).double()
        found = measure_rigidity(mask, centre.expand(len(mask), -1, -1), torch.full((len(mask),), 90.0).double())
        return getattr(found, name)

    # The clip's usual shape and its first one are detached: see test_rigidity.
    rel = 1e-4 if name == "size_BT" else math.inf
    return Case(measure=value, clips=clips, singular=empty_and_cut(clips), rel=rel)


def tracked(name: str) -> Case:
    clips = discs(5.0, 6.0)
    window = (discs(9.0, 9.0) > 0.01).double()

    def value(mask: Tensor) -> Tensor:
        found = track_in_image(mask, window_BTHW=window[: len(mask), : mask.shape[1]].to(mask))
        return getattr(found, name)

    return Case(measure=value, clips=clips, singular=empty_and_cut(clips))


def waves(seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, 5, 8, 10, 2, generator=draw, dtype=torch.float64)


def of_field(law: Callable[[Tensor], Tensor]) -> Case:
    clips = waves(1)
    return Case(measure=law, clips=clips, singular={"no motion": torch.zeros_like(clips)})


def camera(batch: int) -> Camera:
    one = Camera.looking(height_px=32, width_px=40, fov_y_deg=45.0, pitch_down_deg=20.0)
    return one.expanded(batch)


def fitted(position: Tensor) -> Tensor:
    batch, frames, _ = position.shape
    fit = fit_arc(
        time_BT=times(frames, batch),
        position_BTD=position,
        weight_BT=torch.ones(batch, frames),
        sigma_position_B=torch.full((batch,), 1.0),
    )
    return torch.cat((fit.accel_B3, fit.velocity_B3, fit.position_B3), dim=-1)


def swinging(name: str) -> Case:
    def value(position: Tensor) -> Tensor:
        batch, frames, _ = position.shape
        found = measure_pendulum(
            time_BT=times(frames, batch),
            position_BT2=position,
            weight_BT=torch.ones(batch, frames),
            sigma_B=torch.full((batch,), 1e-3),
        )
        return getattr(found, name)

    clips = torch.cat((swung(1.4), swung(1.1)))
    # A swing of 17 degrees is no pure sine, and the last Gauss-Newton step's slopes are detached.
    return Case(measure=value, clips=clips, singular=still(clips), rel=5e-3)


def colliding(measure: Callable[[Tensor], Tensor], *, overlap: float = 0.0, rel: float = 1e-3) -> Case:
    clips = torch.cat((collided(2.0), collided(1.5)))
    clips[:, 1, :, 0] -= overlap
    singular = {
        "no motion": clips[:, :, :1].expand_as(clips),
        "short": clips[:, :, :5],
        "one place": torch.zeros_like(clips),
    }
    return Case(measure=measure, clips=clips, singular=singular, rel=rel)


def lengths_from(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moving_frames() -> Tensor:
    mask = discs(4.0, 5.0, frames=8, step=1.9)[:, :, None]
    wall = 0.5 + 0.1 * torch.sin(torch.arange(40).double() / 4)
    return mask * torch.tensor([0.9, 0.2, 0.1]).double()[:, None, None] + (1 - mask) * wall


def metres(uv: Tensor) -> Tensor:
    seen = centre_seen(uv, torch.full_like(uv[..., 0], 4.0), camera(len(uv)))
    return place_at_distance(camera(len(uv)), seen, torch.full_like(uv[..., 0], 3.0))


def distance_of(distance: Tensor) -> Tensor:
    time = times(distance.shape[1], len(distance))
    line = fit_distance(distance, time, torch.ones_like(time), speed_sd_m_s=0.5, bias_sd=0.02)
    return torch.stack((line.distance_B, line.slope_B), dim=-1)


def propagated(flow: Tensor) -> Tensor:
    return masks.propagated(discs(5.0, 5.0)[: len(flow), 0].to(flow), flow)


FALLS = (bounce(restitution=0.6, frames=24), bounce(restitution=0.7, g=7.0, frames=24))
GAINS = (bounce(restitution=1.3, g=7.0), bounce(restitution=1.2, g=8.0))
THROWS = (thrown(9.81, 1.0, 3.0), thrown(7.0, 1.5, 2.5))
TRACKS = 10 + 20 * lengths_from(3, (2, 6, 2))
FLOWS = 3 * waves(2)
FRAMES = moving_frames()

CASES = {
    "acceleration, velocity, position": Case(
        measure=fitted, clips=torch.cat(THROWS), singular=still(torch.cat(THROWS)), rel=1e-4
    ),
    "impact time": of_flights("end_s_BK", lambda flights: flights, *FALLS, rel=5e-3),
    "restitution by speed": of_flights("by_speed_BK", measure_bounces, *FALLS, rel=5e-3),
    "restitution by height": of_flights("by_height_BK", measure_bounces, *FALLS, rel=5e-3),
    "restitution by time": of_flights("by_time_BK", measure_bounces, *FALLS, rel=5e-3),
    "energy drift": of_flights("drift_B", lambda f: measure_energy(f, g=9.0), *GAINS, rel=2e-2),
    "energy variance": of_flights("variance_B", lambda f: measure_energy(f, g=9.0), *GAINS, rel=2e-2),
    "energy rise": of_flights("rise_B", lambda f: measure_energy(f, g=9.0), *GAINS, rel=5e-3),
    "Galileo's ratio": of_flights(
        "fall_ratio_BK", measure_galileo, bounce(frames=12), bounce(frames=12, g=8.0), rel=1e-2, at_rest=True
    ),
    "range of a throw": of_flights("range_BK", measure_projectile, *THROWS, rel=1e-2),
    "tilt of a throw": of_flights("tilt_BK", measure_projectile, THROWS[0] + slid(1.0), THROWS[1] + slid(2.0)),
    "acceleration along a slope": of_flights("along_B", measure_incline, slid(3.0), slid(4.0), rel=1e-2),
    "period of a pendulum": swinging("period_s_B"),
    "length of a pendulum": swinging("length_B"),
    "penetration": colliding(lambda p: collisions.penetration(pair_of(p)), overlap=0.06),
    "momentum": colliding(lambda p: collisions.momentum_error(jump_of(p), 2.0), rel=2e-2),
    "Coulomb's bound": colliding(lambda p: collisions.coulomb_excess(jump_of(p), 0.02), rel=2e-2),
    "restitution of a pair": colliding(lambda p: collisions.restitution(jump_of(p))[0], rel=2e-2),
    "size of a mask": rigidity_of("size_BT"),
    "shape of a mask": rigidity_of("shape_BT"),
    "stretch of a mask": rigidity_of("stretch_BT"),
    "centroid": tracked("centroid_BT2"),
    "area": tracked("area_BT"),
    "divergence": of_field(fields.divergence),
    "gradient energy": of_field(fields.gradient_energy),
    "share of divergence": of_field(fields.divergence_share),
    "inertia": of_field(fields.inertia_residual),
    "advection": of_field(lambda v: fields.advection_residual(v[..., 0], v)),
    "continuity": of_field(lambda v: fields.continuity_residual(v[..., 0].square() + 1, v)),
    "place in metres": Case(
        measure=metres, clips=TRACKS, singular={"principal point": torch.tensor([20.0, 16.0]).double().expand(2, 6, 2)}
    ),
    "distance of an arc": Case(
        measure=distance_of,
        clips=3 + 0.1 * times(9, 2) + 0.01 * lengths_from(4, (2, 9)),
        singular={"no motion": torch.full((2, 9), 3.0).double(), "one frame": torch.full((2, 1), 3.0).double()},
        rel=0.1,
        keeps_dtype=False,
    ),
    "depth of a ball's centre": Case(
        measure=lambda z: surface_to_centre(z, torch.tensor(5.0), torch.tensor(0.6), torch.tensor(60.0)),
        clips=2 + lengths_from(5, (2, 6)),
        singular={"no depth": torch.zeros(2, 6).double()},
    ),
    "aligned depth": Case(
        measure=lambda d: align_inverse_depth(d, torch.full_like(d, 2.0) + (d > 0.5)).sum((2, 3)),
        clips=lengths_from(6, (2, 3, 4, 5)),
        singular={"constant": torch.full((2, 3, 4, 5), 0.4).double()},
        rel=math.inf,  # one scale and one shift a clip are detached: see test_depth
    ),
    "flow of the object": Case(
        measure=lambda f: robust_flow(f, torch.ones_like(f[..., 0])),
        clips=FLOWS,
        singular={"no motion": torch.zeros_like(FLOWS)},
        rel=math.inf,  # Cauchy's weights are detached: see test_tracks
    ),
    "propagated mask": Case(
        measure=propagated,
        clips=1.3 + 0.2 * lengths_from(8, (2, 4, 32, 40, 2)),
        singular={name: torch.full((2, 4, 32, 40, 2), far).double() for name, far in (("no motion", 0), ("away", 90))},
        rel=1e-2,
    ),
    "mask by motion": Case(
        measure=lambda x: find_moving(x).mask_BTHW.sum((2, 3)),
        clips=FRAMES,
        singular=still(FRAMES) | {"black": torch.zeros_like(FRAMES)},
        rel=math.inf,  # the plate is detached: see test_motion
    ),
    "crop that follows": Case(
        measure=lambda x: follow_crops(x, torch.tensor([[[20.3, 15.2]]]).double().expand(len(x), x.shape[1], 2),
                                       torch.full((len(x),), 16.0), 16),
        clips=FRAMES,
        singular={"one frame": FRAMES[:, :1]},
    ),
}  # fmt: skip


@pytest.fixture(params=CASES, ids=str)
def case(request) -> Case:
    return CASES[request.param]


def test_the_gradient_is_that_of_finite_differences(case):
    if math.isinf(case.rel):
        pytest.skip("its stop-gradients have a test of their own")
    clips = case.clips.clone().requires_grad_()
    value = case.measure(clips)
    assert value.dtype == torch.float64
    pick = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((value * pick).sum(), clips)
    assert gradient.abs().sum() > 0
    push = torch.randn(clips.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        above, below = (case.measure(clips + sign * step * push) for sign in (1, -1))
    numeric = float(((above - below) * pick).sum() / (2 * step))
    assert float((gradient * push).sum()) == pytest.approx(numeric, rel=case.rel, abs=1e-6)


def test_all_is_finite_at_singular_points(case):
    for name, clips in case.singular.items():
        clips = clips.clone().requires_grad_()
        value = case.measure(clips)
        # "Cannot measure" is NaN, without a gradient.
        assert not torch.isinf(value).any(), name
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.nan_to_num().sum(), clips)
            assert torch.isfinite(gradient).all(), name


def first_pieces(value: Tensor, like: Tensor) -> Tensor:
    """A batch holds as many pieces as its richest clip: what a clip alone has, and nothing in the others."""
    if value.shape != like.shape:
        assert not value[:, like.shape[1] :].any()
        value = value[:, : like.shape[1]]
    return value


def test_two_clips_at_once_are_two_alone_in_any_order(case):
    together = case.measure(case.clips)
    swapped = case.measure(case.clips.flip(0))
    torch.testing.assert_close(swapped.flip(0), together, atol=1e-9, rtol=1e-9)
    for n in range(2):
        alone = case.measure(case.clips[n : n + 1])
        torch.testing.assert_close(first_pieces(together[n : n + 1], alone), alone, atol=1e-9, rtol=1e-9)


def test_single_precision_stays_single(case):
    value = case.measure(case.clips.float())
    assert value.dtype == (torch.float32 if case.keeps_dtype else torch.float64)
    torch.testing.assert_close(value.double(), case.measure(case.clips), atol=2e-2, rtol=2e-2)


def test_double_precision_stays_double_and_nothing_is_made_on_another_device(case):
    with SaysWhere() as trap:
        value = case.measure(case.clips)
    assert value.dtype == torch.float64
    assert value.device == case.clips.device
    assert sorted(trap.lines) == []

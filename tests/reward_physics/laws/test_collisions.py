"""Two discs that collide: contact, penetration, momentum, Coulomb's bound, causality."""

import dataclasses

import pytest
import torch
from paths import spearman, times

from reward_physics.laws import collisions
from reward_physics.laws.collisions import Pair


def pair(
    *,
    masses=(1.0, 2.0),
    e: float = 0.8,
    speed: float = 2.0,
    offset: float = 0.0,
    extra: tuple[float, float] = (0.0, 0.0),
    apart: float = 0.0,
    frames: int = 20,
    noise: float = 0.0,
) -> Pair:
    """Body 1 runs into body 2, at rest, at 0.4 s; `extra` is added to body 2's velocity after, `apart` to the distance
    at which they part."""
    r1, r2 = 0.15, 0.2
    reach = r1 + r2 + apart
    normal = torch.tensor([(reach**2 - offset**2) ** 0.5, offset]).double() / reach
    v1 = torch.tensor([speed, 0.0]).double()
    impulse = (1 + e) * (v1 @ normal) / (1 / masses[0] + 1 / masses[1])
    after1, after2 = v1 - impulse / masses[0] * normal, impulse / masses[1] * normal + torch.tensor(extra).double()
    time = times(frames)[0] - 0.4
    before = (time < 0)[:, None]
    x1 = torch.where(before, v1 * time[:, None], after1 * time[:, None])
    x2 = reach * normal + torch.where(before, 0 * v1 * time[:, None], after2 * time[:, None])
    position = torch.stack((x1, x2))[None]
    draw = torch.Generator().manual_seed(0)
    position = position + noise * torch.randn(position.shape, generator=draw, dtype=torch.float64)
    return Pair(
        time_BT=times(frames),
        position_B2TD=position,
        weight_B2T=torch.ones(1, 2, frames),
        radius_B2=torch.tensor([[r1, r2]]).double(),
        longest_B2=torch.tensor([[r1, r2]]).double(),
        sigma_B=torch.tensor([max(noise, 1e-3)]).double(),
    )


@pytest.mark.parametrize("offset", [0.0, 0.15])
@pytest.mark.parametrize("e", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("masses", [(1.0, 1.0), (1.0, 3.0)])
def test_a_true_collision_conserves_momentum(masses, e, offset):
    given = pair(masses=masses, e=e, offset=offset)
    jump = collisions.contact_jump(given)
    assert jump.measured_B.all() and collisions.is_visible(jump, given).all()
    assert jump.time_B.item() == pytest.approx(0.4, abs=0.03)
    assert collisions.momentum_error(jump) < 1e-6
    assert collisions.momentum_error(jump, masses[1] / masses[0]) < 1e-4
    assert collisions.mass_ratio(jump).item() == pytest.approx(masses[1] / masses[0], rel=1e-3)
    ratio, known = collisions.restitution(jump)
    assert known.all() and ratio.item() == pytest.approx(e, abs=0.08)
    assert collisions.coulomb_excess(jump, 0.3) < 0.01
    apart = collisions.jump_without_contact(given)
    assert not collisions.is_visible(apart, given).any()


def test_momentum_error_grows_with_the_momentum_that_comes_from_nowhere():
    sideways = torch.linspace(0, 3, 8).tolist()
    errors = [collisions.momentum_error(collisions.contact_jump(pair(extra=(0.0, x)))).item() for x in sideways]
    assert errors[0] < 1e-6 and spearman(sideways, errors) >= 0.99
    known = [collisions.momentum_error(collisions.contact_jump(pair(extra=(x, 0.0))), 2.0).item() for x in sideways]
    assert known[0] < 1e-4 and spearman(sideways, known) >= 0.99
    assert collisions.momentum_error(collisions.contact_jump(pair(extra=(-6.0, 0.0)))).item() == pytest.approx(1.0)


def test_the_standard_error_of_a_change_of_velocity_is_its_spread(generator):
    true, count, noise = pair(e=0.9), 300, 0.004
    shape = (count, *true.position_B2TD.shape[1:])
    many = Pair(
        time_BT=true.time_BT.expand(count, -1),
        position_B2TD=true.position_B2TD + noise * torch.randn(shape, generator=generator, dtype=torch.float64),
        weight_B2T=true.weight_B2T.expand(count, -1, -1),
        radius_B2=true.radius_B2.expand(count, -1),
        longest_B2=true.longest_B2.expand(count, -1),
        sigma_B=torch.full((count,), noise).double(),
    )
    jump = collisions.contact_jump(many)
    usual = (jump.time_B - jump.time_B.median()).abs() < 1e-6
    assert usual.float().mean() > 0.5
    spread = jump.dv_B2D[usual].std(0).mean(-1)
    torch.testing.assert_close(spread, jump.dv_sd_B2[usual].mean(0), rtol=0.2, atol=0)
    angle = torch.atan2(*jump.dv_B2D[usual].flip(-1).unbind(-1)).diff(dim=1)[:, 0].remainder(2 * torch.pi) - torch.pi
    assert angle.std().item() == pytest.approx(collisions.direction_error(jump)[usual].mean().item(), rel=0.2)


def test_coulomb_allows_what_friction_can_do():
    jump = collisions.contact_jump(pair(extra=(0.0, 0.0)))
    turned = dataclasses.replace(jump, dv_B2D=jump.dv_B2D + torch.tensor([0.0, 0.5]).double())
    tangent = 0.5 / jump.dv_B2D[0, 0, 0].abs().item()
    assert collisions.coulomb_excess(turned, tangent + 0.01) == 0
    assert collisions.coulomb_excess(turned, 0.0).item() == pytest.approx(tangent / (1 + tangent**2) ** 0.5, rel=1e-3)


def test_penetration_by_hand_and_in_order():
    depths = torch.linspace(0, 0.9, 8)
    found = []
    for depth in depths:
        given = pair(frames=10)
        position = torch.zeros_like(given.position_B2TD)
        position[:, 1, :, 0] = 0.35 * (1 - depth)
        found.append(collisions.penetration(dataclasses.replace(given, position_B2TD=position)).amax().item())
    assert found == pytest.approx(depths.tolist(), abs=1e-6)
    assert collisions.penetration(pair()).amax() < 1e-3


def test_bodies_that_turn_touch_within_their_largest_extents():
    slim = pair(apart=0.15)
    assert not collisions.contact_jump(slim, reach=0.1).measured_B.any(), "by the extents that faced each other first"
    long = dataclasses.replace(slim, longest_B2=1.4 * slim.radius_B2)
    assert collisions.contact_jump(long, reach=0.1).measured_B.all()
    assert not collisions.is_visible(collisions.jump_without_contact(long, reach=0.1), long).any()


def test_action_at_a_distance_is_a_jump_without_contact():
    gaps, given = [], None
    for speed in (0.5, 1.0, 1.5, 2.0, 2.5):
        given = pair(apart=0.4, speed=speed, noise=1e-3)
        assert not collisions.contact_jump(given).measured_B.any()
        jump = collisions.jump_without_contact(given)
        assert collisions.is_visible(jump, given).all()
        gaps.append((jump.after_BD - jump.before_BD).norm().item())
    assert spearman([0.5, 1.0, 1.5, 2.0, 2.5], gaps) >= 0.99


def test_passing_through_has_a_negative_restitution():
    given = pair(e=-1.0)  # no impulse at all: body 1 goes on through body 2
    ratio, known = collisions.restitution(collisions.contact_jump(given))
    assert known.all() and ratio.item() == pytest.approx(-1.0, abs=0.05)
    assert collisions.penetration(given).amax() > 0.8


def test_still_unseen_and_short_clips():
    given = pair()
    still = dataclasses.replace(given, position_B2TD=given.position_B2TD[:, :, :1].expand(-1, -1, 20, -1))
    hidden = dataclasses.replace(given, weight_B2T=torch.zeros(1, 2, 20))
    short = pair(frames=5)
    same = dataclasses.replace(given, position_B2TD=torch.zeros_like(given.position_B2TD))
    for case in (still, hidden, short, same):
        position = case.position_B2TD.clone().requires_grad_()
        case = dataclasses.replace(case, position_B2TD=position)
        jump = collisions.contact_jump(case)
        assert not collisions.is_visible(jump, case).any()
        total = collisions.momentum_error(jump, 1.0) + collisions.penetration(case).sum(1)
        total = total + collisions.coulomb_excess(jump, 0.1) + collisions.restitution(jump)[0]
        (gradient,) = torch.autograd.grad(total.sum(), position)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("what", ["penetration", "momentum", "known_masses", "coulomb", "restitution"])
def test_gradcheck(what):
    given = pair(offset=0.1, extra=(0.1, 0.2))
    overlapping = given.position_B2TD.clone()
    overlapping[:, 1, :, 0] -= 0.06
    position = (overlapping if what == "penetration" else given.position_B2TD).clone().requires_grad_()

    def value(p):
        case = dataclasses.replace(given, position_B2TD=p)
        if what == "penetration":
            return collisions.penetration(case).sum()
        jump = collisions.contact_jump(case)
        # The normal is detached by design.
        jump = dataclasses.replace(jump, normal_BD=collisions.contact_jump(given).normal_BD.detach())
        return {
            "momentum": lambda: collisions.momentum_error(jump),
            "known_masses": lambda: collisions.momentum_error(jump, 2.0),
            "coulomb": lambda: collisions.coulomb_excess(jump, 0.05),
            "restitution": lambda: collisions.restitution(jump)[0],
        }[what]()

    assert torch.autograd.gradcheck(value, (position,), eps=1e-5, atol=1e-3, rtol=1e-2, fast_mode=True)


def test_two_pairs_at_once_equal_two_alone():
    one, two = pair(), pair(masses=(2.0, 1.0), offset=0.1, noise=1e-3)
    both = Pair(**{f.name: torch.cat((getattr(one, f.name), getattr(two, f.name))) for f in dataclasses.fields(Pair)})
    together = collisions.contact_jump(both)
    for n, case in enumerate((one, two)):
        torch.testing.assert_close(together.dv_B2D[n], collisions.contact_jump(case).dv_B2D[0])

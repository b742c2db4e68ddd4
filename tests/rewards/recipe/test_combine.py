"""Totals: weights, the price of what cannot be measured, and rewards that misbehave."""

import pytest
import torch
from discs import free_fall, make_world

from reward_physics.observation import Observation
from rewards.recipe.combine import Term, combine


def observe(grad: bool = False, batch: int = 3) -> Observation:
    world = make_world(free_fall(batch=batch, frames=6))
    video = world.video
    if grad:
        video = video.with_frames(video.frames_BTCHW.clone().requires_grad_())
    return Observation(video, world.instruments(), grad=grad)


def giving(*values):
    def constant(observation):
        return torch.tensor(values) + 0 * observation.video.frames_BTCHW.mean((1, 2, 3, 4))

    return Term(name="constant", reward=constant)


NAN = float("nan")


def test_weighted_sum_and_terms():
    a, b = giving(1.0, 2.0, 3.0), giving(0.0, 1.0, 0.0)
    b = Term(name="other", reward=b.reward, weight=-2.0)
    result = combine(observe(), [a, b], {})
    assert result.total_B.tolist() == [1.0, 0.0, 3.0]
    assert result.terms["other"].tolist() == [0.0, 1.0, 0.0]
    assert result.measurable_B.all() and result.reasons == [None] * 3


def test_an_unmeasurable_clip_is_worth_the_worst_of_its_batch_or_a_number():
    term = giving(-0.5, NAN, -2.0)
    assert combine(observe(), [term], {}).total_B.tolist() == [-0.5, -2.0, -2.0]
    assert combine(observe(), [term], {}, unmeasurable=-7.0).total_B.tolist() == [-0.5, -7.0, -2.0]
    result = combine(observe(), [giving(NAN, NAN, NAN)], {})
    assert result.total_B.tolist() == [-1.0, -1.0, -1.0] and not result.measurable_B.any()
    assert result.terms["constant"].isnan().all()


def test_hiding_never_pays():
    observation = observe()
    result = combine(observation, [giving(-0.5, NAN, -2.0)], {}, visibility_weight=0.5)
    assert result.total_B[1] <= -2.0
    assert result.reasons[1] == "reward constant could not be measured"


def test_unmeasurable_clips_have_a_visibility_gradient_and_measured_ones_their_own():
    observation = observe(grad=True)
    frames = observation.video.frames_BTCHW
    faded = make_world(free_fall(batch=3, frames=6, start_m=(9.0, 4.0, 1.0))).video.frames_BTCHW
    half = (0.4 * frames.detach() + 0.6 * faded).requires_grad_()
    observation = Observation(observation.video.with_frames(half), observation.instruments, grad=True)

    def brightness(observation):
        value = observation.video.frames_BTCHW.mean((1, 2, 3, 4))
        return torch.where(torch.tensor([True, False, True]), value, torch.nan)

    result = combine(observation, [Term(name="brightness", reward=brightness)], {}, visibility_weight=0.1)
    (gradient,) = torch.autograd.grad(result.total_B.sum(), half)
    assert torch.isfinite(gradient).all()
    assert gradient[1].abs().sum() > 0
    torch.testing.assert_close(gradient[0], torch.full_like(gradient[0], 1 / gradient[0].numel()))


def test_columns_go_to_the_rewards_that_name_them():
    def wants(observation, *, height_m, scale=1.0):
        return torch.tensor(height_m) * scale

    term = Term(name="wants", reward=wants, parameters={"scale": 2.0})
    columns = {"height_m": [1.0, 2.0, 3.0], "caption": ["a", "b", "c"], "scale": 5.0}
    assert combine(observe(), [term], columns).total_B.tolist() == [2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3.0, "reward bad must return a tensor"),
        (torch.zeros(2), r"one score a clip, shape \(3,\), got \(2,\)"),
        (torch.zeros(3, 1), "one score a clip"),
        (torch.zeros(3, dtype=torch.int64), "floating point"),
        (torch.tensor([0.0, float("inf"), 0.0]), "got inf for clip 1"),
        (torch.zeros(3, device="meta"), "scores on cpu"),
    ],
)
def test_bad_values_name_the_reward(value, message):
    with pytest.raises(ValueError, match=message):
        combine(observe(), [Term(name="bad", reward=lambda observation: value)], {})


def test_a_reward_that_raises_is_named():
    def broken(observation):
        raise KeyError("colour")

    with pytest.raises(ValueError, match="reward broken failed: KeyError: 'colour'"):
        combine(observe(), [Term(name="broken", reward=broken)], {})


def test_rewards_without_gradient_are_refused_where_one_is_needed():
    def detached(observation):
        return observation.video.frames_BTCHW.detach().mean((1, 2, 3, 4))

    with pytest.raises(ValueError, match="has no gradient at the pixels"):
        combine(observe(grad=True), [Term(name="detached", reward=detached)], {})
    detached.differentiable = False
    term = Term(name="detached", reward=detached)
    with pytest.raises(ValueError, match="not differentiable"):
        combine(observe(grad=True), [term], {})
    result = combine(observe(grad=True), [giving(0.0, 0.0, 0.0)], {}, held_out=[term])
    assert set(result.terms) == {"constant", "held_out/detached"}
    assert not result.terms["held_out/detached"].requires_grad


def named(name, *values, **more):
    return Term(name=name, reward=giving(*values).reward, **more)


def test_a_gate_takes_away_what_lies_above_the_price_and_never_adds():
    rewards, gate = [giving(-0.5, -0.5, -0.5)], [named("seen", 1.0, 0.5, 0.0)]
    result = combine(observe(), rewards, {}, gates=gate, unmeasurable=-2.0)
    assert result.total_B.tolist() == [-0.5, -1.25, -2.0]
    assert result.terms["gates/seen"].tolist() == [1.0, 0.5, 0.0]
    below = combine(observe(), [giving(-3.0, -3.0, -3.0)], {}, gates=gate, unmeasurable=-2.0)
    assert below.total_B.tolist() == [-3.0, -3.0, -3.0]
    both = combine(observe(), rewards, {}, gates=[*gate, named("sharp", 0.5, 0.5, 0.5)], unmeasurable=-2.0)
    assert both.total_B.tolist() == [-1.25, -1.625, -2.0]


def test_a_gate_works_on_a_batch_of_one_kind_by_the_worst_price():
    result = combine(observe(), [giving(-0.5, -0.5, -0.5)], {}, gates=[named("seen", 1.0, 0.0, NAN)])
    assert result.total_B.tolist() == [-0.5, -1.0, -1.0]
    assert result.measurable_B.tolist() == [True, True, False]
    assert result.reasons[2] == "reward seen could not be measured"


def test_a_gate_carries_gradient():
    def brightness(observation):
        return observation.video.frames_BTCHW.mean((1, 2, 3, 4)).clamp(0, 1)

    observation = observe(grad=True)
    leaf = observation.video.frames_BTCHW
    gate = Term(name="brightness", reward=brightness)
    total = combine(observation, [giving(-0.5, -0.5, -0.5)], {}, gates=[gate], unmeasurable=-2.0).total_B
    (gradient,) = torch.autograd.grad(total.sum(), leaf)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 1.5 / gradient[0].numel()))


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_gate_outside_its_range_is_refused(value):
    with pytest.raises(ValueError, match=r"gate seen must lie in \[0, 1\], got .* for clip 1"):
        combine(observe(), [giving(0.0, 0.0, 0.0)], {}, gates=[named("seen", 1.0, value, 0.0)])


def test_normalised_sum_divides_by_the_spread_or_the_scale():
    a, b = named("a", 10.0, 30.0, NAN, weight=2.0), named("b", 1.0, 3.0, 3.0, scale=0.5)
    result = combine(observe(), [a, b], {}, aggregation="normalised_sum", unmeasurable=-9.0)
    assert result.total_B.tolist() == [2 * 1.0 + 2.0, 2 * 3.0 + 6.0, -9.0]
    assert result.terms["a"][:2].tolist() == [10.0, 30.0]
    same = combine(observe(), [named("a", 3.0, 3.0, 3.0)], {}, aggregation="normalised_sum")
    assert same.total_B.tolist() == [3.0, 3.0, 3.0]
    assert combine(observe(), [named("b", 1.0, 3.0, 3.0, scale=0.5)], {}).total_B.tolist() == [2.0, 6.0, 6.0]


def test_product_of_powers():
    a, b = named("a", 0.25, 1.0, 0.0, weight=0.5), named("b", 1.0, 0.5, 1.0)
    total = combine(observe(), [a, b], {}, aggregation="product").total_B
    torch.testing.assert_close(total, torch.tensor([0.5, 0.5, 1e-3]))
    nothing = combine(observe(), [named("a", NAN, 0.5, 0.25)], {}, aggregation="product")
    assert nothing.total_B.tolist() == [0.25, 0.5, 0.25]
    with pytest.raises(ValueError, match=r"reward a must lie in \[0, 1\], got -0.5 for clip 1: use aggregation: sum"):
        combine(observe(), [named("a", 0.5, -0.5, 0.5)], {}, aggregation="product")


def test_live_terms_carry_the_graph_of_each_reward():
    observation = observe(grad=True)
    result = combine(observation, [giving(1.0, NAN, 3.0)], {})
    assert result.live_terms["constant"].requires_grad and not result.terms["constant"].requires_grad
    assert combine(observe(), [giving(1.0, 1.0, 1.0)], {}).live_terms == {}


def test_a_price_is_never_above_the_worst_that_was_measured():
    result = combine(observe(), [giving(-3.0, NAN, -5.0)], {}, unmeasurable=-1.0)
    assert result.total_B.tolist() == [-3.0, -5.0, -5.0]
    gate = [named("seen", 1.0, 1.0, 0.5)]
    gated = combine(observe(), [giving(-3.0, NAN, -0.5)], {}, unmeasurable=-1.0, gates=gate)
    assert gated.total_B.tolist() == [-3.0, -3.0, -0.75]

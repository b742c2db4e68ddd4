"""The commitment curve: exact where the answer is known, resumable, and the same sampler at every level."""

import types

import pytest
import torch

from trainers.commitment import (
    CommitmentConfig,
    commitment_level,
    complete_again,
    measure_commitment,
    open_shares,
    schedule_from,
)
from trainers.models import Schedule
from trainers.models.ltx import LTXModel

EVEN = Schedule(sigmas=torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]), timesteps_S=torch.tensor([1000.0, 750, 500, 250]))


class MeanColour:
    """Takes 40 times the mean red for the measured g."""

    def __init__(self):
        self.calls = 0

    def score(self, video, columns, grad):
        self.calls += 1
        accel_B3 = torch.zeros(video.batch_size, 3)
        accel_B3[:, 2] = -40 * video.frames_BTCHW[:, :, 0].mean(dim=(1, 2, 3))
        ones = torch.ones(video.batch_size)
        fit = types.SimpleNamespace(accel_B3=accel_B3)
        return types.SimpleNamespace(
            total_B=ones,
            terms={},
            measurable_B=ones,
            reasons=[None] * len(ones),
            observation=types.SimpleNamespace(fit=fit),
        )


def test_the_spread_of_normal_draws_is_their_standard_deviation():
    g, again = 5 + 2 * torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
    records = [{"sigma": 1.0, "g": a, "again": b} for a, b in zip(g.tolist(), again.tolist(), strict=True)]
    assert open_shares(records)[0]["spread_m_s2"] == pytest.approx(2.0, rel=0.03)


def test_a_schedule_can_be_entered_anywhere():
    assert schedule_from(EVEN, 0.6).sigmas.tolist() == pytest.approx([0.6, 0.5, 0.25, 0.0])
    assert schedule_from(EVEN, 0.5).sigmas.tolist() == [0.5, 0.25, 0.0]
    assert schedule_from(EVEN, 1.0).timesteps_S.tolist() == [1000, 750, 500, 250]


def test_the_open_share_of_known_pairs():
    """Changes of 4 and 1 leave spreads as 4 to 1; an outlier, and pairs that cannot be measured, do not count."""
    nan = float("nan")
    records = [{"sigma": 1.0, "g": 2.0, "again": 6.0}, {"sigma": 1.0, "g": 6.0, "again": 2.0}]
    records += [{"sigma": 1.0, "g": 2.0, "again": -90.0}]
    records += [{"sigma": 0.5, "g": 2.0, "again": 3.0}, {"sigma": 0.5, "g": 2.0, "again": nan}]
    rows = open_shares(records)
    assert [row["sigma"] for row in rows] == [1.0, 0.5]
    assert rows[0]["spread_m_s2"] == pytest.approx(1.4826 * 8**0.5)
    assert [row["open"] for row in rows] == pytest.approx([1.0, 0.25])
    assert (rows[1]["pairs"], rows[1]["of"]) == (1, 2)
    assert commitment_level(rows, 0.5) == pytest.approx(1 - 0.5 * (0.5 / 0.75))
    assert commitment_level(rows, 0.1) == 0


def test_the_curve_falls_with_the_noise_and_goes_on_where_it_stopped(toy_world, tmp_path):
    model = LTXModel.load(toy_world / "model")
    options = {"dataset": str(toy_world / "clips"), "output_dir": str(tmp_path), "num_inference_steps": 3}
    options |= {"sigmas": [1.0, 0.5, 0.05], "batch_size": 2, "disable_tqdm": True}
    recipe = MeanColour()
    measure_commitment(CommitmentConfig(scenes=2, **options), model, recipe)
    calls = recipe.calls
    rows = measure_commitment(CommitmentConfig(scenes=4, **options), model, recipe)
    assert recipe.calls == 2 * calls  # only the two new scenes
    assert rows[0]["pairs"] == 8
    assert rows[0]["open"] == 1
    assert rows[2]["open"] < 0.5
    with pytest.raises(ValueError, match="other settings"):
        measure_commitment(CommitmentConfig(**options | {"sigmas": [1.0]}), model, recipe)
    with pytest.raises(ValueError, match="must start with 1"):
        measure_commitment(CommitmentConfig(**options | {"sigmas": [0.5]}), model, recipe)


def test_no_noise_changes_nothing_but_the_last_step(toy_world):
    model = LTXModel.load(toy_world / "model")
    condition = model.condition(["a red ball"], fps=16.0, num_frames=9, height_px=32, width_px=32)
    draw = [torch.Generator().manual_seed(0)]
    clean = model.initial_latents(condition, draw)
    again = complete_again(model, clean, 1e-4, model.schedule(4, condition), condition, draw)
    assert (again - clean).abs().max() < 1e-2

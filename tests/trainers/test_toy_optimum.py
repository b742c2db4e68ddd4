"""On a model whose optimum is known every trainer reaches it: brightness 0.7, from 0.2, fixed seed."""

import types

import numpy as np
import pytest
import torch
from toy_model import SPREAD, ToyModel

from data.rows import load_split
from data.write import write_shard
from trainers import oro, psft, rwr
from trainers.settings.oro import OROConfig
from trainers.settings.regression import PSFTConfig, RWRConfig

BEST = 0.7


class Peak:
    """Minus the squared distance of the clip's brightness from BEST; its gradient can be refused."""

    def __init__(self, *, differentiable=True):
        self.differentiable = differentiable

    def score(self, video, columns, grad):
        assert self.differentiable or not grad
        with torch.set_grad_enabled(grad):
            total_B = -(video.frames_BTCHW.mean(dim=(1, 2, 3, 4)) - BEST).square()
        return types.SimpleNamespace(
            total_B=total_B,
            terms={"peak": total_B.detach()},
            measurable_B=torch.ones(len(total_B), dtype=torch.bool),
            reasons=[None] * len(total_B),
            observation=None,
        )


@pytest.fixture
def settings(toy_world, tmp_path):
    """What the three runs have in common; the split `bright` is uniformly of the best brightness, `train` is not."""
    rows = [dict(row) for row in load_split("train", toy_world / "clips")]
    for row in rows:
        row["frames"] = np.full_like(row["frames"], round(255 * BEST))
    folder = tmp_path / "clips"
    for split in ("bright", "validation"):
        (folder / split).mkdir(parents=True)
        write_shard(rows, folder / split / "part-0.parquet")
    return {
        "dataset": str(folder),
        "split": "bright",
        "image_conditioning": False,
        "output_dir": str(tmp_path / "run"),
        "num_inference_steps": 16,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.03,
        "lr_scheduler_type": "linear",
        "max_steps": 80,
        "report_to": ["none"],
        "disable_tqdm": True,
        "save_steps": 0,
    }


def test_oro_reaches_the_optimum(settings):
    model = ToyModel()
    config = OROConfig(**settings, reference_weight=0.0, max_pixel_grad_ratio=1e9)
    metrics = oro.train(config, recipe=Peak(), model=model)
    assert model.learned_mean == pytest.approx(BEST, abs=0.03)
    assert metrics["reward"] > -3 * SPREAD**2


def test_rwr_reaches_the_optimum_without_any_gradient_of_the_reward(settings):
    model = ToyModel()
    config = RWRConfig(**settings, num_generations=8, prompts_per_round=4, inner_steps=4, target_ess=0.3)
    metrics = rwr.train(config, recipe=Peak(differentiable=False), model=model)
    assert model.learned_mean == pytest.approx(BEST, abs=0.03)
    assert metrics["denoising_loss"] > 0


def test_signed_regression_reaches_the_optimum_as_well(settings):
    model = ToyModel()
    options = {"num_generations": 8, "prompts_per_round": 4, "inner_steps": 2, "weighting": "signed"}
    config = RWRConfig(**settings | options)
    rwr.train(config, recipe=Peak(differentiable=False), model=model)
    assert model.learned_mean == pytest.approx(BEST, abs=0.05)


def test_unweighted_regression_on_own_samples_stays_where_it_is(settings):
    model = ToyModel()
    config = RWRConfig(**settings, num_generations=8, prompts_per_round=4, inner_steps=4, weighting="uniform")
    rwr.train(config, recipe=Peak(differentiable=False), model=model)
    assert abs(model.learned_mean - 0.2) < 0.15  # a random walk of the mean, not a drift


def test_psft_reaches_the_data(settings):
    model = ToyModel()
    psft.train(PSFTConfig(**settings), model=model)
    assert model.learned_mean == pytest.approx(BEST, abs=0.03)


def test_physics_loss_alone_pulls_the_predicted_clip_to_the_optimum(settings, toy_world):
    """On clips of brightness 0.5 the denoising loss wants 0.5 and the physics loss 0.7: a large weight decides."""
    dark = settings | {"dataset": str(toy_world / "clips"), "split": "train"}
    means = {}
    for weight in (0.0, 300.0):
        model = ToyModel()
        config = PSFTConfig(**dark, physics_weight=weight, physics_sigma_range=[0.9, 1.0], overwrite_output_dir=True)
        psft.train(config, recipe=Peak(), model=model)
        means[weight] = model.learned_mean
    assert means[0.0] == pytest.approx(0.5, abs=0.03)
    assert means[300.0] == pytest.approx(BEST, abs=0.05)

"""A reward in a user's own file trains under ORO and RWR with no edit here; a broken one is named before a step."""

import json
import math
from pathlib import Path

import pytest
from toy_model import ToyModel

from rewards.recipe.recipe import load_recipe
from trainers import oro, rwr
from trainers.settings.oro import OROConfig
from trainers.settings.regression import RWRConfig

OWN = """
import torch

def bright(observation, *, best=0.7):
    return -(observation.video.frames_BTCHW.mean((1, 2, 3, 4)) - best).square()

def coarse(observation, *, best=0.7):
    return -(observation.video.frames_BTCHW.mean((1, 2, 3, 4)) - best).square().mul(100).round() / 100

coarse.differentiable = False

def raises(observation):
    raise KeyError("colour")

def wrong_shape(observation):
    return observation.video.frames_BTCHW.mean((2, 3, 4))

def wrong_type(observation):
    return [0.5] * observation.batch_size

def wrong_device(observation):
    return observation.video.frames_BTCHW.mean((1, 2, 3, 4)).to("meta")

def nan_everywhere(observation):
    value = observation.video.frames_BTCHW.mean((1, 2, 3, 4))
    return torch.where(value > 9, value, torch.nan)

def detached(observation):
    return observation.video.frames_BTCHW.detach().mean((1, 2, 3, 4))
"""


@pytest.fixture
def own(tmp_path):
    """`own("bright")` is the path of a recipe beside the user's own file."""
    (tmp_path / "mine.py").write_text(OWN)

    def make(reward: str, *, rewards=None, **more) -> str:
        values = {
            "instruments": {"flow": None, "depth": None, "mask": "appearance"},
            "rewards": rewards or [{"name": f"mine.py:{reward}", **more}],
            "visibility_weight": 0.0,
        }
        (tmp_path / "own.yaml").write_text(json.dumps(values))
        return str(tmp_path / "own.yaml")

    return make


def settings(tmp_path: Path, **more):
    return {
        "split": "validation",
        "image_conditioning": False,
        "output_dir": str(tmp_path / "run"),
        "num_inference_steps": 8,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "max_steps": 12,
        "report_to": ["none"],
        "disable_tqdm": True,
        "save_steps": 0,
    } | more


def train_oro(recipe: str, tmp_path: Path, model: ToyModel, **more):
    config = OROConfig(**settings(tmp_path, reference_weight=0.0, max_pixel_grad_ratio=1e9, recipe=recipe, **more))
    return oro.train(config, recipe=load_recipe(recipe), model=model)


def train_rwr(recipe: str, tmp_path: Path, model: ToyModel, **more):
    groups = {"num_generations": 4, "prompts_per_round": 2, "inner_steps": 4, "target_ess": 0.3}
    config = RWRConfig(**settings(tmp_path, recipe=recipe, **groups, **more))
    return rwr.train(config, recipe=load_recipe(recipe), model=model)


@pytest.mark.parametrize(("train", "reward"), [(train_oro, "bright"), (train_rwr, "bright"), (train_rwr, "coarse")])
def test_it_trains(train, reward, own, tmp_path):
    model = ToyModel()
    train(own(reward, parameters={"best": 0.9}), tmp_path, model)
    assert model.learned_mean > 0.2 + 0.04, "brighter than the 0.2 it began with"
    logged = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert math.isfinite(json.loads(logged[0])[f"rewards/{reward}/mean"])
    assert (tmp_path / "run" / "pytorch_lora_weights.safetensors").is_file()


def test_gradients_of_several_rewards_are_compared_in_the_log(own, tmp_path):
    rewards = [{"name": "mine.py:bright", "parameters": {"best": best}, "label": f"to_{best}"} for best in (0.9, 0.1)]
    train_oro(own("bright", rewards=rewards), tmp_path, ToyModel(), max_steps=1, log_reward_gradients=True)
    logged = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert logged["grad/to_0.9/norm"] > 0 and logged["grad/to_0.1/norm"] > 0
    assert logged["grad/cos/to_0.9/to_0.1"] == pytest.approx(-1, abs=1e-3), "one wants it brighter, one darker"


@pytest.mark.parametrize("train", [train_oro, train_rwr])
@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("raises", "reward raises failed: KeyError: 'colour'"),
        ("wrong_shape", "reward wrong_shape must return one score a clip"),
        ("wrong_type", "reward wrong_type must return a tensor"),
        ("wrong_device", "reward wrong_device must return its scores on cpu"),
    ],
)
def test_a_broken_one_is_named_before_the_first_step(train, reward, message, own, tmp_path):
    model = ToyModel()
    with pytest.raises(ValueError, match=message):
        train(own(reward), tmp_path, model)
    assert model.learned_mean == pytest.approx(0.2)


@pytest.mark.parametrize("train", [train_oro, train_rwr])
def test_one_that_is_nan_everywhere_is_named_in_a_warning_and_priced(train, own, tmp_path):
    model = ToyModel()
    with pytest.warns(UserWarning, match="reward nan_everywhere could not be measured on any of the 2 true clips"):
        train(own("nan_everywhere"), tmp_path, model, max_steps=1)
    assert model.learned_mean == pytest.approx(0.2), "unmeasurable clips teach nothing"


@pytest.mark.parametrize("reward", ["detached", "coarse"])
def test_one_without_gradient_is_refused_by_oro_alone(reward, own, tmp_path):
    with pytest.raises(ValueError, match=rf"reward {reward} (has no gradient at the pixels|says that it is not diff)"):
        train_oro(own(reward), tmp_path, ToyModel())
    assert "reward" in train_rwr(own(reward), tmp_path, ToyModel(), max_steps=1, overwrite_output_dir=True)

"""What `trainers/oro.py` refuses, end to end: one line on stderr, exit status 2, before the first step.

Settings go through a YAML file and the command's own `main`, rewards through recipes; each test spoils one thing of a
run that works.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from safetensors.torch import load_file, save_file

from trainers import oro
from trainers.models import load_video_model
from trainers.settings.options import exit_with_one_line

Refusal = Callable[..., str]

REWARDS = """
import torch

def brightness(observation):
    return observation.video.frames_BTCHW.mean(dim=(1, 2, 3, 4))

def counting(observation):
    return (observation.video.frames_BTCHW > 0.5).float().mean(dim=(1, 2, 3, 4))

counting.differentiable = False

def detached(observation):
    return brightness(observation).detach()

def infinite(observation):
    return brightness(observation) / 0

def scalar(observation):
    return observation.video.frames_BTCHW.mean()

def failing(observation):
    return {}["speed"]

not_callable = 3
"""


@pytest.fixture(scope="module")
def world(toy_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model and clips of the toy world, a LoRA for the model, and a file of rewards."""
    folder = tmp_path_factory.mktemp("refusals")
    for name in ("model", "clips"):
        (folder / name).symlink_to(toy_world / name)
    model = load_video_model(folder / "model")
    model.add_lora(r=2, alpha=2.0, targets=None)
    model.save_lora(folder / "lora")
    (folder / "my_rewards.py").write_text(REWARDS)
    return folder


def write_yaml(path: Path, values: dict[str, Any]) -> Path:
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
    return path


@pytest.fixture
def recipe(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`recipe("brightness", unmeasurable=-1)` is the path of a recipe without estimators."""
    monkeypatch.setenv("REWARD_PHYSICS_PATH", str(world))

    def make(reward: str = "brightness", **changes: Any) -> str:
        values = {
            "instruments": {"flow": None, "depth": None, "mask": "appearance"},
            "rewards": [{"name": f"{world}/my_rewards.py:{reward}"}],
            "visibility_weight": 0.0,
        }
        return str(write_yaml(tmp_path / "recipe.yaml", values | changes))

    return make


@pytest.fixture
def good(world: Path, tmp_path: Path, recipe: Callable[..., str]) -> dict[str, Any]:
    """Settings of a run that works."""
    return {
        "model_name_or_path": str(world / "model"),
        "dataset": str(world / "clips"),
        "recipe": recipe(),
        "output_dir": str(tmp_path / "out"),
        "num_inference_steps": 2,
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "lora_r": 2,
        "report_to": ["none"],
        "disable_tqdm": True,
    }


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Run the command on settings (or a file of them) and arguments; return its one line. A step taken is a failure."""

    def step(*_: Any, **__: Any) -> None:
        raise AssertionError("a step was taken")

    def run(settings: dict[str, Any] | Path, *arguments: str) -> str:
        monkeypatch.setattr(oro, "oro_loss", step)
        path = settings if isinstance(settings, Path) else write_yaml(tmp_path / "run.yaml", settings)
        monkeypatch.setattr(sys, "argv", ["oro.py", "--config", str(path), *arguments])
        with pytest.raises(SystemExit) as end:
            exit_with_one_line(oro.main)
        assert end.value.code == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower()]
        assert len(errors) == 1
        assert errors[0].startswith("error: ")
        return errors[0]

    return run


def assert_says(said: str, *parts: str) -> None:
    missing = [part for part in parts if part not in said]
    assert not missing, f"expected {missing} in: {said}"


def test_good_settings_train(good: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests spoil these settings, so they must be right."""
    monkeypatch.setattr(sys, "argv", ["oro.py", "--config", str(write_yaml(tmp_path / "run.yaml", good))])
    exit_with_one_line(oro.main)
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        pytest.param({"learning_rte": 1e-4}, ["learning_rte", "did you mean learning_rate"], id="unknown key"),
        pytest.param({"lora_r": "eight"}, ["lora_r", "'eight'"], id="word for a number"),
        pytest.param({"max_steps": 0}, ["max_steps", "greater than 0", "got 0"], id="no steps"),
        pytest.param({"learning_rate": "inf"}, ["learning_rate", "inf"], id="infinite rate"),
        pytest.param({"adapter_sigma_range": [0.9, 0.1]}, ["adapter_sigma_range", "low <= high"], id="range reversed"),
        pytest.param(
            {"reward_weight": 0, "reference_weight": 0, "denoising_weight": 0}, ["reward_weight", "0"], id="no loss"
        ),
        pytest.param({"fps": 0}, ["fps", "greater than 0", "got 0"], id="zero fps"),
        pytest.param({"fps": "nan"}, ["fps", "nan"], id="fps that is not a number"),
        pytest.param({"fps": "inf"}, ["fps", "inf"], id="infinite fps"),
        pytest.param({"height": 40}, ["height", "40", "try 32"], id="resolution that the model cannot make"),
        pytest.param({"num_frames": 8}, ["num_frames", "8", "try 9"], id="frames that the model cannot make"),
        pytest.param({"guidance_scale": 0.5}, ["guidance_scale", "0.5", "1"], id="guidance below 1"),
        pytest.param({"split": "trian"}, ["trian", "train"], id="unknown split"),
        pytest.param({"lora_target_modules": ["nothing"]}, ["lora_target_modules", "nothing"], id="no such layer"),
        pytest.param({"model_name_or_path": "./nowhere"}, ["model", "nowhere", "does not exist"], id="missing model"),
        pytest.param({"lora_path": "./nowhere"}, ["LoRA", "nowhere"], id="missing LoRA"),
        pytest.param({"recipe": "nowhere.yaml"}, ["nowhere.yaml", "no such recipe"], id="missing recipe"),
        pytest.param(
            {"eval_steps": 1, "eval_recipe": "nowhere.yaml"}, ["nowhere.yaml", "no such recipe"], id="missing judge"
        ),
        pytest.param({"eval_steps": 1, "eval_split": "held"}, ["held", "validation"], id="missing held-out split"),
        pytest.param({"resume_from_checkpoint": "./no"}, ["resume_from_checkpoint", "no"], id="missing checkpoint"),
    ],
)
def test_wrong_settings(changes: dict[str, Any], parts: list[str], good: dict[str, Any], refusal: Refusal) -> None:
    assert_says(refusal(good | changes), *parts)


def test_exponents_without_a_point_are_numbers(good: dict[str, Any], refusal: Refusal) -> None:
    """YAML 1.1 reads `1e-3` as a word, and nobody who writes it means one: the other mistake is what is reported."""
    assert_says(refusal(good | {"learning_rate": "1e-3", "max_steps": 0}), "max_steps")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param("max_steps: 3\nmax_steps: 4\n", ["line 2", "max_steps"], id="repeated key"),
        pytest.param("max_steps: [3\n", ["line"], id="not YAML"),
        pytest.param("", ["key: value"], id="empty"),
    ],
)
def test_wrong_config_file(text: str, parts: list[str], tmp_path: Path, refusal: Refusal) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert_says(refusal(path), "broken.yaml", *parts)


def test_missing_config_file_suggests_a_near_one(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "oro_drops.yaml").write_text("max_steps: 1\n")
    assert_says(refusal(tmp_path / "oro_drop.yaml"), "oro_drop.yaml", "does not exist", "did you mean oro_drops.yaml")


def test_unknown_option(good: dict[str, Any], refusal: Refusal) -> None:
    assert_says(refusal(good, "--max_step", "3"), "--max_step", "did you mean max_steps")


@pytest.mark.parametrize(
    ("reward", "parts"),
    [
        pytest.param("counting", ["counting", "not differentiable", "held_out"], id="declared not differentiable"),
        pytest.param("detached", ["gradient", "differentiable"], id="without a gradient"),
        pytest.param("infinite", ["infinite", "finite", "inf"], id="not finite"),
        pytest.param("scalar", ["scalar", "2"], id="one score for all clips"),
        pytest.param("failing", ["failing", "KeyError", "speed"], id="raises"),
        pytest.param("brightnes", ["brightnes", "did you mean brightness"], id="no such function"),
        pytest.param("not_callable", ["not_callable", "callable", "int"], id="not a function"),
    ],
)
def test_wrong_reward(
    reward: str, parts: list[str], good: dict[str, Any], recipe: Callable[..., str], refusal: Refusal
) -> None:
    assert_says(refusal(good | {"recipe": recipe(reward)}), *parts)


def test_detached_reward_is_refused_beside_a_visibility_term(
    good: dict[str, Any], recipe: Callable[..., str], refusal: Refusal
) -> None:
    """The gradient of the visibility term must not hide that the reward itself has none."""
    assert_says(refusal(good | {"recipe": recipe("detached", visibility_weight=0.1)}), "detached", "gradient")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        pytest.param({"rewrds": []}, ["rewrds", "did you mean rewards"], id="unknown key"),
        pytest.param({"rewards": []}, ["rewards", "line"], id="no reward"),
        pytest.param({"rewards": [{"name": "gravitty"}]}, ["gravitty", "did you mean gravity"], id="unknown reward"),
        pytest.param({"rewards": [{"name": "nowhere.py:y"}]}, ["nowhere.py", "no such file"], id="missing file"),
        pytest.param({"rewards": [{"name": "no_such.x:y"}]}, ["no_such", "cannot be imported"], id="missing package"),
        pytest.param({"rewards": [{"name": "gravity", "wieght": 1}]}, ["wieght", "did you mean weight"], id="field"),
        pytest.param({"rewards": [{"name": "gravity", "weight": "nan"}]}, ["weight", "nan"], id="weight"),
        pytest.param(
            {"rewards": [{"name": "gravity", "parameters": {"g_ms2": 9.81}}]},
            ["g_ms2", "did you mean g_m_s2"],
            id="parameter",
        ),
        pytest.param({"instruments": {"flw": None}}, ["flw", "did you mean flow"], id="unknown instrument"),
        pytest.param({"instruments": {"mask": "segmentor"}}, ["segmentor", "segmenter"], id="unknown mask method"),
        pytest.param(
            {"instruments": {"flow": "raft_smal", "depth": None, "mask": "appearance"}},
            ["flow", "raft_smal", "torchvision/raft_small"],
            id="unknown flow estimator",
        ),
        pytest.param({"unmeasurable": "best"}, ["unmeasurable", "best", "worst"], id="price of the unmeasurable"),
    ],
)
def test_wrong_recipe(
    changes: dict[str, Any], parts: list[str], good: dict[str, Any], recipe: Callable[..., str], refusal: Refusal
) -> None:
    assert_says(refusal(good | {"recipe": recipe(**changes)}), "recipe.yaml", *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param("visibility_weight: 0\nvisibility_weight: 1\n", ["line 2", "visibility_weight"], id="repeated"),
        pytest.param("rewards: [\n", ["line"], id="not YAML"),
        pytest.param("- gravity\n", ["mapping", "list"], id="a list"),
        pytest.param("", ["mapping"], id="empty"),
    ],
)
def test_wrong_recipe_file(text: str, parts: list[str], good: dict[str, Any], tmp_path: Path, refusal: Refusal) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert_says(refusal(good | {"recipe": str(path)}), "broken.yaml", *parts)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "broken",
    [
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "transformer/config.json",
        "tokenizer/tokenizer.json",
        "model_index.json",
    ],
)
def test_corrupt_model(broken: str, good: dict[str, Any], world: Path, tmp_path: Path, refusal: Refusal) -> None:
    shutil.copytree(world / "model", tmp_path / "model")
    truncate(tmp_path / "model" / broken)
    assert_says(refusal(good | {"model_name_or_path": str(tmp_path / "model")}), str(tmp_path / "model"))


def test_corrupt_lora(good: dict[str, Any], world: Path, tmp_path: Path, refusal: Refusal) -> None:
    shutil.copytree(world / "lora", tmp_path / "lora")
    truncate(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert_says(refusal(good | {"lora_path": str(tmp_path / "lora")}), str(tmp_path / "lora"))


def test_lora_of_another_model(good: dict[str, Any], world: Path, tmp_path: Path, refusal: Refusal) -> None:
    weights = load_file(world / "lora" / "pytorch_lora_weights.safetensors")
    wider = {name: weight.repeat(1, 2) if "lora_A" in name else weight for name, weight in weights.items()}
    (tmp_path / "lora").mkdir()
    save_file(wider, tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert_says(refusal(good | {"lora_path": str(tmp_path / "lora")}), str(tmp_path / "lora"))


def test_corrupt_clips(good: dict[str, Any], world: Path, tmp_path: Path, refusal: Refusal) -> None:
    shutil.copytree(world / "clips", tmp_path / "clips")
    (file,) = (tmp_path / "clips" / "train").glob("*.parquet")
    truncate(file)
    assert_says(refusal(good | {"dataset": str(tmp_path / "clips")}), str(file))


@pytest.mark.parametrize(
    ("changed", "parts"),
    [({"fps": 0.0}, ["fps", "> 0", "got 0"]), ({"mask": None}, ["mask"]), ({"caption": None}, ["caption"])],
    ids=["no frame rate", "no mask column", "no caption column"],
)
def test_wrong_clips(
    changed: dict[str, Any],
    parts: list[str],
    good: dict[str, Any],
    world: Path,
    tmp_path: Path,
    refusal: Refusal,
) -> None:
    (file,) = (world / "clips" / "train").glob("*.parquet")
    table = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    for name, value in changed.items():
        kind = table.features[name]
        table = table.remove_columns(name)
        if value is not None:
            table = table.add_column(name, [value] * len(table)).cast_column(name, kind)
    (tmp_path / "spoilt" / "train").mkdir(parents=True)
    table.to_parquet(tmp_path / "spoilt" / "train" / "part-0.parquet")
    assert_says(refusal(good | {"dataset": str(tmp_path / "spoilt")}), *parts)


def test_corrupt_estimator(good: dict[str, Any], recipe: Callable[..., str], tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "raft.safetensors").write_bytes(b"not weights")
    instruments = {"flow": str(tmp_path / "raft.safetensors"), "depth": None, "mask": "appearance"}
    assert_says(refusal(good | {"recipe": recipe(instruments=instruments)}), "flow", "raft.safetensors")


@pytest.mark.parametrize("arguments", [[], ["--dry_run"]], ids=["run", "dry run"])
def test_output_folder_that_exists(
    arguments: list[str], good: dict[str, Any], tmp_path: Path, refusal: Refusal
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    assert_says(refusal(good, *arguments), "output_dir", "exists", "overwrite_output_dir")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_output_folder_that_is_a_file(good: dict[str, Any], tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "out").write_text("")
    assert_says(refusal(good), "output_dir", "file")


def test_output_folder_below_a_file(good: dict[str, Any], tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert_says(refusal(good | {"output_dir": str(tmp_path / "notes.txt" / "out")}), "output_dir", "notes.txt")


def test_too_little_disk(good: dict[str, Any], monkeypatch: pytest.MonkeyPatch, refusal: Refusal) -> None:
    full = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert_says(refusal(good), "disk", "output_dir", "free")

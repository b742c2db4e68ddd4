"""The demo: what it asks of training and evaluation, what it concludes and leaves. CI runs the real one."""

import json

import pytest
import torch

from reward_physics.figures.intervals import Interval
from trainers import demo
from trainers.clips.folder import write_text
from trainers.demo import DemoConfig, Outcome, demonstrate, training_config
from trainers.evaluation.arms import Arm
from trainers.evaluation.evaluate import record_of
from trainers.evaluation.fall_figures import DETAILS, MOTION
from trainers.evaluation.measured import Evaluation, MeasuredArm
from trainers.evaluation.scores import Headline

ROW = {"id": "heldout-1", "seed": 1, "caption": "a ball", "fps": 16.0}
SCENES = 6


ONE = {
    "area_ratio": 1.0,
    "aligned_iou": 0.9,
    "reason": None,
    "landing_s": 0.5,
    "true_landing_s": 0.5,
    **dict.fromkeys((*DETAILS, *MOTION), 0.1),
}
PICTURE = {"disagreement": 0.01, "background_psnr_db": 30.0, "sharpness": 1.0, "colour_shift": 0.0}


def figures(g_m_s2: float, scene: int) -> dict:
    """Those of one clip with this g."""
    one = ONE | {"g_m_s2": g_m_s2, "g_scaled_m_s2": g_m_s2, "g_error": abs(g_m_s2 - 9.81) / 9.81}
    return {"scene": f"heldout-{scene}", "reward": one, "judge": one, **PICTURE}


class World:
    """Stands in for training and evaluation: the trained arm falls `gain` m/s^2 faster than the base."""

    def __init__(self, gain: float) -> None:
        self.gain, self.trained, self.evaluated = gain, [], []

    def train(self, config) -> None:
        self.trained.append(config)
        folder = demo.Path(config.output_dir)
        folder.mkdir(parents=True)
        (folder / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
        lines = [{"step": step, "reward": -1 / step, "measurable": 1.0, "grad_norm": 0.1} for step in (1, 2, 3)]
        (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))

    def evaluate(self, config, *, instruments, known=()):
        self.evaluated.append(config)
        arms = []
        for text in config.arm:
            name = text.split("=")[0]
            spread = torch.linspace(-0.1, 0.1, SCENES).tolist()
            found = [figures(3 + i / 5 + (self.gain + spread[i]) * (name == "trained"), i) for i in range(SCENES)]
            arms.append(
                MeasuredArm(
                    arm=Arm(name=name, kind="model"),
                    rows=[ROW] * SCENES,
                    seeds=[0] * SCENES,
                    frames=[torch.rand(4, 3, 16, 16)] * SCENES,
                    readings=[],
                    figures=found,
                )
            )
        folder = demo.Path(config.output_dir)
        for name in ("trajectories", "strip_0", "g_by_arm"):
            write_text(folder / f"{name}.png", "picture")
        return Evaluation(arms=arms, record=record_of(config, arms))


@pytest.fixture
def play(tmp_path, monkeypatch):
    """`play(gain)` runs the demo in a folder of its own and returns (world, folder, outcome)."""
    settings = tmp_path / "oro_demo.yaml"
    settings.write_text("max_steps: 7\nnum_inference_steps: 4\n")

    def once(gain: float, **changes):
        world = World(gain)
        monkeypatch.setattr(demo, "evaluate", world.evaluate)
        config = DemoConfig(**({"output_dir": str(tmp_path / "demo"), "training": str(settings)} | changes))
        outcome = demonstrate(config, train=world.train, instruments={"reward": None, "judge": None})  # pyright: ignore
        return world, tmp_path / "demo", outcome

    return once


def test_the_demo_measures_trains_measures_and_leaves_everything(play, capsys):
    world, folder, outcome = play(5.0)
    assert [config.arm for config in world.evaluated] == [["base"], ["base", f"trained={folder / 'oro'}"]]
    assert all(config.at_rest and config.split == "heldout" for config in world.evaluated)
    assert [config.num_inference_steps for config in world.evaluated] == [4, 4]
    assert world.trained[0].max_steps == 7
    assert outcome.success
    assert outcome.headline.difference.estimate == pytest.approx(5.0)
    for name in (
        "before_after.mp4",
        "before_after.gif",
        "trajectories.png",
        "strip.png",
        "reward_curve.png",
        "table.md",
    ):
        assert (folder / name).stat().st_size > 0, name
    said = capsys.readouterr().out
    assert "held-out g before   3.50 m/s²" in said
    assert "held-out g after    8.50 m/s²" in said
    assert "paired difference  +5.00 m/s² [" in said


def test_a_second_demo_keeps_what_was_trained(play):
    play(5.0)
    world, _, outcome = play(5.0)
    assert world.trained == []
    assert outcome.success


@pytest.mark.parametrize("changes", [{"max_steps": 3}, {"overwrite_output_dir": True}])
def test_other_settings_train_again(play, changes):
    play(5.0)
    world, _, _ = play(5.0, **changes)
    assert len(world.trained) == 1


def test_no_change_is_said_and_is_no_success(play, capsys):
    _, _, outcome = play(0.0)
    assert not outcome.success
    assert "the interval includes zero: train longer" in capsys.readouterr().out


def test_a_change_for_the_worse_is_no_success(play):
    _, _, outcome = play(-2.0)
    assert outcome.headline.difference.excludes(0.0)
    assert not outcome.success
    assert "not toward 9.81" in outcome.lines()[-1]


def test_too_few_pairs_are_no_success():
    nothing = Interval(estimate=float("nan"), low=float("nan"), high=float("nan"), count=0)
    headline = Headline(
        name="g", unit=" m/s²", before=3, after=9, difference=nothing, mean_difference=nothing,
        error_difference=nothing, better="", worse="",
    )  # fmt: skip
    assert not Outcome(headline=headline).success


def test_a_folder_of_something_else_is_refused(play, tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="something other than a demo"):
        play(5.0)


def test_training_takes_the_settings_of_its_file(tmp_path):
    settings = tmp_path / "a.yaml"
    settings.write_text("max_steps: 9\nlora_r: 4\n")
    training = training_config(DemoConfig(training=str(settings), output_dir=str(tmp_path / "x"), max_steps=2))
    assert (training.max_steps, training.lora_r) == (2, 4)
    assert training.output_dir == str(tmp_path / "x" / "oro")
    assert training.resume_from_checkpoint == "auto"


def test_a_missing_settings_file_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        training_config(DemoConfig(training=str(tmp_path / "absent.yaml")))


@pytest.mark.parametrize(
    ("gain", "flags", "status"), [(5.0, [], 0), (0.0, [], 1), (0.0, ["--require_change", "false"], 0)]
)
def test_the_exit_status_says_whether_g_was_mended(play, monkeypatch, gain, flags, status):
    _, _, outcome = play(gain)
    monkeypatch.setattr(demo, "demonstrate", lambda config: outcome)
    monkeypatch.setattr("sys.argv", ["demo", *flags])
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == status

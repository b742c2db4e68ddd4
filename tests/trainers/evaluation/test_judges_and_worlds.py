"""A judge that measures nothing has a score; a world without a fall is drawn, judged and evaluated."""

import json
import math

import numpy as np
import pytest
import torch
from lamp_world import FPS, NAME, Lamps

from data import write
from data.rows import collate, load_split, reward_columns, to_video
from data.worlds import world_of
from rewards.recipe.recipe import load_recipe
from trainers.clips.folder import ClipFolder
from trainers.clips.making import request_for_row, rows_of_split
from trainers.evaluation.evaluate import evaluate
from trainers.evaluation.measured import EvaluationConfig
from trainers.evaluation.reports import report_of
from trainers.evaluation.tables import markdown_table

BRIGHT = """
def bright(observation):
    return observation.video.frames_BTCHW.mean(dim=(1, 2, 3, 4))
"""
JUDGE = """
instruments: {flow: null, depth: null, mask: appearance}
rewards:
  - name: bright.py:bright
"""


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """A recipe whose reward is a plain function in a file beside it; its instruments know no metres."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "bright.py").write_text(BRIGHT)
    (folder / "bright.yaml").write_text(JUDGE)
    return folder / "bright.yaml"


def clips_of(folder, rows, change):
    """A folder of sampled clips: change(frames_THW3, number) of every row."""
    store = ClipFolder(folder, {"made": "by hand"})
    for number, row in enumerate(rows):
        frames = change(np.asarray(row["frames"], np.float32), number)
        store.write(request_for_row(row, 0).sample, torch.from_numpy(frames).permute(0, 3, 1, 2) / 255)
    return str(folder)


@pytest.fixture(scope="module")
def judged(bright, tmp_path_factory):
    """Two arms of the shipped world's scenes, one dimmed to 60 to 80 %, judged by the plain function."""
    folder = tmp_path_factory.mktemp("judged")
    rows = rows_of_split("validation", scenes=3, at_rest=True)
    dim = clips_of(folder / "dim", rows, lambda frames, number: frames * (0.6 + number / 10))
    same = clips_of(folder / "same", rows, lambda frames, number: frames)
    config = EvaluationConfig(
        arm=[f"dim={dim}", f"same={same}"],
        split="validation",
        scenes=3,
        at_rest=True,
        recipe="configs/recipes/judge_scene.yaml",
        judge=str(bright),
        output_dir=str(folder / "out"),
    )
    return evaluate(config), folder / "out"


def test_a_plain_function_ranks_two_arms(judged):
    evaluation, folder = judged
    arms = json.loads((folder / "evaluation.json").read_text())["arms"]
    scores = {name: arm["summary"]["judge"]["score"] for name, arm in arms.items()}
    assert scores["same"]["estimate"] > 1.2 * scores["dim"]["estimate"] > 0.1
    assert scores["dim"]["low"] < scores["dim"]["estimate"] < scores["dim"]["high"]
    for name, arm in arms.items():
        assert arm["summary"]["judge"]["scored"] == 1.0
        for clip, frames in zip(arm["clips"], evaluation.arm(name).frames, strict=True):
            assert clip["judge"]["score"] == pytest.approx(float(frames.mean()), abs=1e-4)
            assert clip["judge"]["scored"] is True
    difference = evaluation.record["comparisons"]["same"]["judge_score"]
    assert difference.estimate == pytest.approx(scores["same"]["estimate"] - scores["dim"]["estimate"], abs=1e-6)
    assert difference.count == 3 and difference.excludes(0.0)


def test_what_such_a_judge_cannot_measure_is_absent_with_the_reason(judged):
    evaluation, _ = judged
    for clip in evaluation.arm("same").figures:
        assert math.isnan(clip["judge"]["g_m_s2"]) and math.isnan(clip["judge"]["trajectory_l2_m"])
        assert "there is no depth estimator" in clip["judge"]["reason"]
        assert math.isfinite(clip["reward"]["g_m_s2"]), "the other instrument measures as ever"
        assert math.isfinite(clip["background_psnr_db"]), "the picture is judged with its masks"


def test_table_and_page_show_the_score(judged):
    evaluation, folder = judged
    table = (folder / "table.md").read_text()
    header, _, dim, same = table.splitlines()[:4]
    assert header.endswith("| background (dB) | score, judge | score, reward |")
    estimate = evaluation.record["arms"]["same"]["summary"]["judge"]["score"].estimate
    assert f"| {estimate:.3f} [" in same and "nan" not in dim + same
    assert "- score by the judge: median difference +" in table
    assert "- g by the judge" not in table and "- g by the reward" in table
    page = (folder / "report.html").read_text()
    assert "score, judge" in page and f"{estimate:.3f} [" in page
    clip = evaluation.arm("same").figures[0]["judge"]["score"]
    assert f"score {clip:.3f}" in page
    assert "nan" not in page
    assert (folder / "g_by_arm.png").exists() and (folder / "strip_0.png").exists()


def test_both_judges_may_be_blind(bright, tmp_path):
    rows = rows_of_split("validation", scenes=2, at_rest=True)
    arms = [f"{name}={clips_of(tmp_path / name, rows, lambda frames, _: frames)}" for name in ("a", "b")]
    judge = load_recipe(bright)
    config = EvaluationConfig(arm=arms, split="validation", scenes=2, at_rest=True, output_dir=str(tmp_path / "out"))
    evaluation = evaluate(config, instruments={"reward": judge, "judge": judge})
    assert evaluation.record["comparisons"]["b"]["judge_score"].estimate == 0.0
    assert "nan" not in markdown_table(evaluation.record) + (tmp_path / "out" / "report.html").read_text()


@pytest.fixture(scope="module")
def lamps(tmp_path_factory):
    """A folder of the split `lamps`, drawn, simulated, rendered and written."""
    folder = tmp_path_factory.mktemp("lamps")
    rows = [write.clip(("lamps", number, 6, 32, None), world=NAME) for number in range(3)]
    (folder / "lamps").mkdir()
    write.write_shard(rows, folder / "lamps" / "clips.parquet", world=NAME)
    return folder


def test_a_second_world_is_a_name(lamps):
    assert isinstance(world_of(NAME), Lamps)
    rows = world_of(NAME).rows("lamps", lamps)
    assert rows["id"] == ["lamps-0", "lamps-1", "lamps-2"]
    batch = collate([rows[number] for number in range(3)])
    assert batch["rate_per_s_B"].tolist() == [1.0, 2.0, 3.0]
    assert "rate_per_s_B" in reward_columns(batch)
    video = to_video(batch)
    assert video.camera is None and video.first_mask_BHW is None and video.fps_B.tolist() == [FPS] * 3
    with pytest.raises(ValueError, match="world must be one of drops or package"):
        world_of("lamps")
    with pytest.raises(ValueError, match="ships no clips"):
        world_of(NAME).rows("lamps")
    with pytest.raises(ValueError, match="does not say which scenes are at rest"):
        rows_of_split("lamps", scenes=1, at_rest=True, root=lamps, world=NAME)


def test_a_world_without_a_fall_is_evaluated(lamps, bright, tmp_path):
    rows = rows_of_split("lamps", scenes=3, at_rest=False, root=lamps, world=NAME)
    times_s = np.arange(6)[:, None, None, None] / FPS
    right = clips_of(tmp_path / "right", rows, lambda frames, _: 255 * np.exp(-times_s) + 0 * frames)
    steady = clips_of(tmp_path / "steady", rows, lambda frames, number: frames * 0 + 255 - 20 * number)
    blind = {name: _free_of_masks(bright) for name in ("reward", "judge")}
    config = EvaluationConfig(
        world=NAME,
        dataset=str(lamps),
        split="lamps",
        scenes=3,
        arm=["truth", f"right={right}", f"steady={steady}"],
        output_dir=str(tmp_path / "out"),
    )
    evaluation = evaluate(config, instruments=blind)
    error = {name: arm["summary"]["figures"]["light_error"] for name, arm in evaluation.record["arms"].items()}
    assert error["truth"].estimate < 0.01 and error["right"].estimate < 0.01
    assert error["steady"].estimate == pytest.approx(1 - math.exp(-5 / FPS) - 20 / 255, abs=0.05)
    assert error["steady"].count == 3
    assert evaluation.record["against"] == "right"
    assert evaluation.record["comparisons"]["steady"]["figures"]["light_error"].estimate > 0.3
    assert evaluation.record["arms"]["steady"]["clips"][2]["figures"]["light_error"] > 0.1
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.splitlines()[0] == "| arm | clips | score, judge | score, reward | light error |"
    assert "- light error: median difference +" in table and "- score by the judge: " in table
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<video") == 9 and "light error" in page
    for text in (table, page):
        assert "m/s²" not in text and "nan" not in text


def _free_of_masks(bright):
    """The recipe with the mask that needs none in the first frame."""
    path = bright.with_name("motion.yaml")
    path.write_text(JUDGE.replace("appearance", "motion"))
    return load_recipe(path)


def test_the_embedded_world_stands_behind_the_same_interface():
    drops = world_of("drops")
    scene = drops.draw("validation", 5, frames=17, side_px=64)
    shipped = load_split("validation")[5]
    assert drops.draw("validation", 5, frames=17, side_px=64, law=9.81).g_m_s2 == 9.81
    row = drops.row(scene, "validation", drops.simulate(scene), np.asarray(shipped["frames"]))
    assert row["id"] == str(shipped["id"]) and row["scene"] == str(shipped["scene"])
    assert set(row) == set(drops.features(17, 64, 64)) and set(drops.columns) < set(row)
    assert drops.law(row, is_true=True) == scene.g_m_s2 and drops.law(row, is_true=False) == 9.81
    truth = drops.truth(row)
    assert truth.at(9.81).impact_s < truth.at(2.0).impact_s


def test_the_writing_command_takes_a_world_and_its_splits(capsys):
    options = write.parse(["--world", NAME, "--split", "lamps", "--clips", "2"])
    assert (options.world, options.split) == (NAME, "lamps")
    for arguments, message in [
        (["--world", NAME, "--split", "train", "--clips", "2"], "invalid choice: 'train'"),
        (["--world", "moon", "--split", "train", "--clips", "2"], "world must be one of drops or package.module:Class"),
    ]:
        with pytest.raises(SystemExit):
            write.parse(arguments)
        assert message in capsys.readouterr().err


def test_old_figures_without_a_score_are_summed_up(judged):
    evaluation, _ = judged
    report = report_of("drops")
    clips = [
        {name: value for name, value in clip.items() if name not in ("judge", "reward")}
        | {name: {k: v for k, v in clip[name].items() if "score" not in k} for name in ("judge", "reward")}
        for clip in evaluation.arm("same").figures
    ]
    summary = report.summary(clips, tolerance=0.15)
    assert math.isnan(summary["judge"]["score"].estimate) and math.isnan(summary["judge"]["scored"])
    record = {
        "settings": {"tolerance": 0.15},
        "arms": {"old": {"source": {"kind": "model"}, "summary": summary | {"diversity": math.nan}}},
        "comparisons": {"old": report.comparison(clips, clips)},
        "against": "old",
    }
    table = markdown_table(record)
    assert "| - | - |" in table.splitlines()[2] and "score by" not in table

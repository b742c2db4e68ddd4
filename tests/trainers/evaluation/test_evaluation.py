"""Evaluation on painted falls: scenes of drops ray-cast without OpenGL, a flat object before a striped wall."""

import dataclasses
import json
import math
import statistics
import types

import numpy as np
import pytest
import torch

from data.drops.ranges import Ranges
from data.drops.scenes import Scene, draw_scene
from data.drops.simulation import geometry, simulate
from data.drops.truth import TrueScene
from data.drops.world import make_row
from data.rows import LIGHT_COLUMNS, collate, load_split, to_video
from data.write import write_shard
from reward_physics.estimators.depth import Depth
from reward_physics.observation import Instruments, Observation
from rewards.recipe.recipe import load_recipe
from trainers.clips.folder import ClipFolder
from trainers.clips.making import request_for_row, rows_of_split
from trainers.evaluation.__main__ import gather_repeated
from trainers.evaluation.arms import Clips, parse_arms
from trainers.evaluation.clip_figures import LANDED, clip_figures, landing_time
from trainers.evaluation.evaluate import evaluate
from trainers.evaluation.fall_figures import DETAILS, MOTION, summary
from trainers.evaluation.figures import describe
from trainers.evaluation.measured import EvaluationConfig, diversity, plain
from trainers.evaluation.readings import read
from trainers.evaluation.tables import details_table, markdown_table
from trainers.learning.batches import Scenes
from trainers.models.tiny.ltx import tiny_ltx
from trainers.settings.common import DataConfig

DISTANCE_M = 3.5
RANGES = Ranges(
    shapes=("sphere",),
    kinds={"drop": 1.0},
    size_m=(0.2, 0.22),
    height_m=(1.2, 1.4),
    distance_m=(DISTANCE_M, DISTANCE_M),
    pitch_deg=(0.0, 0.0),
    fov_deg=(44.0, 46.0),
)


def scene_of(seed: int) -> Scene:
    """A drop from rest in the plane that the camera looks at squarely."""
    scene = draw_scene(seed, RANGES)
    body = scene.bodies[0]
    level = dataclasses.replace(body, position_m=(body.position_m[0], 0.0, body.position_m[2]))
    return dataclasses.replace(scene, bodies=(level,))


def paint(scene: Scene) -> np.ndarray:
    """frames_THW3: the object red, the rest grey stripes."""
    mask_THW = geometry(scene, simulate(scene)).mask_THW
    frames = np.full((*mask_THW.shape, 3), 120, np.uint8)
    frames[:, :, ::8] = 150
    frames[mask_THW == 1] = (220, 30, 30)
    return frames


class PlaneJudge:
    """A recipe whose instruments know that the object falls in the plane at DISTANCE_M and that it is red."""

    def __init__(self, bias: float = 1.0) -> None:
        self.instruments = Instruments(flow=None, depth=self.depth, mask="appearance")
        self.bias = bias

    def depth(self, frames_BTCHW, camera=None):
        shape = (*frames_BTCHW.shape[:2], *frames_BTCHW.shape[-2:])
        return Depth(depth_BTHW=torch.full(shape, (DISTANCE_M - 0.14) * self.bias), metric=True)

    def score(self, video, columns, grad):
        observation = Observation(video, self.instruments, grad=grad)
        measurable_B = observation.fit.measurable_B
        return types.SimpleNamespace(
            total_B=torch.zeros(video.batch_size),
            terms={},
            measurable_B=measurable_B,
            reasons=observation.reasons,
            observation=observation,
        )


INSTRUMENTS = {"reward": PlaneJudge(bias=1.02), "judge": PlaneJudge()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A split `heldout` of four falls and a tiny random model."""
    root = tmp_path_factory.mktemp("falls")
    rows = []
    for seed in range(4):
        scene = scene_of(seed)
        motion = simulate(scene)
        rows.append(make_row(scene, "heldout", motion, geometry(scene, motion), paint(scene)))
    (root / "heldout").mkdir()
    write_shard(rows, root / "heldout" / "clips-0.parquet")
    tiny_ltx(root / "model")
    return root


def config(world, tmp_path, **changes) -> EvaluationConfig:
    base = {
        "model_name_or_path": str(world / "model"),
        "dataset": str(world),
        "scenes": 3,
        "num_inference_steps": 1,
        "output_dir": str(tmp_path / "out"),
    }
    return EvaluationConfig(**(base | changes))


def clips_under(world, folder, change) -> str:
    """A folder of sampled clips in which scene number i shows change(scene, i)."""
    store = ClipFolder(folder, {"made": "by hand"})
    for number, row in enumerate(rows_of_split("heldout", scenes=3, at_rest=True, root=world)):
        frames = change(Scene.from_json(str(row["scene"])), number)
        frames_TCHW = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        store.write(request_for_row(row, 0).sample, frames_TCHW)
    return str(folder)


def vanish(scene: Scene, number: int) -> np.ndarray:
    """The first scene's object disappears after two frames."""
    frames = paint(scene)
    if number == 0:
        frames[2:] = frames[-1, :1]
    return frames


@pytest.fixture(scope="module")
def evaluated(world, tmp_path_factory):
    """One evaluation of painted arms: truth, slow falls, falls 2 m/s^2 faster, one object that vanishes."""
    folder = tmp_path_factory.mktemp("evaluated")
    changes = {
        "slow": lambda scene, number: paint(scene.with_gravity(3.0 + number)),
        "fast": lambda scene, number: paint(scene.with_gravity(5.0 + number)),
        "vanish": vanish,
    }
    arms = [f"{name}={clips_under(world, folder / name, change)}" for name, change in changes.items()]
    return evaluate(config(world, folder, arm=["truth", *arms]), instruments=INSTRUMENTS)


def test_true_clips_measure_true_and_keep_their_shape(evaluated):
    found = evaluated.record["arms"]["truth"]["summary"]
    assert found["judge"]["measurable"] == 1.0
    assert found["judge"]["g_error"].estimate < 0.05
    assert found["judge"]["within"].estimate == 1.0
    assert 0.9 < found["judge"]["area_ratio"] < 1.1
    assert found["judge"]["aligned_iou"] > 0.9
    assert found["judge"]["trajectory_l2_m"].estimate < 0.05
    assert found["judge"]["fall_l2_m"].estimate < 0.05
    assert found["judge"]["vanished"].estimate == 0.0
    assert found["judge"]["published_l2"].estimate < 0.02
    # both look at the same pixels; the reward's metres are 2 % longer
    assert found["disagreement"] == pytest.approx(0.02, abs=0.005)
    assert found["background_psnr_db"] > 40


def test_a_slow_fall_is_wrong_in_motion_and_right_in_shape(evaluated):
    found = evaluated.record["arms"]["slow"]["summary"]
    assert evaluated.g("slow").tolist() == pytest.approx([3.0, 4.0, 5.0], rel=0.05)
    assert found["judge"]["g_error"].estimate == pytest.approx(1 - 4 / 9.81, abs=0.04)
    assert found["judge"]["within"].estimate == 0.0
    # Until the true impact a fall at 4 m/s^2 lags by (9.81 - 4) t^2 / 2, a third of its end's value in the mean.
    landing_s = [clip["judge"]["true_landing_s"] for clip in evaluated.record["arms"]["slow"]["clips"]]
    lag_m = sum((9.81 - g) * t**2 / LANDED / 6 for g, t in zip((3.0, 4.0, 5.0), landing_s, strict=True)) / 3
    assert found["judge"]["fall_l2_m"].estimate == pytest.approx(lag_m, rel=0.15)
    assert found["judge"]["trajectory_l2_m"].estimate != found["judge"]["fall_l2_m"].estimate
    assert found["judge"]["iou"].estimate < 0.5
    assert found["judge"]["aligned_iou"] > 0.9
    assert 0.9 < found["judge"]["area_ratio"] < 1.1


def test_the_paired_difference_is_between_the_same_scenes(evaluated):
    assert evaluated.record["against"] == "slow"
    difference = evaluated.record["comparisons"]["fast"]["judge_g_m_s2"]
    assert difference.estimate == pytest.approx(2.0, abs=0.2)
    assert difference.excludes(0.0)
    median = evaluated.record["comparisons"]["fast"]["judge_g_m_s2_median"]
    assert median.low <= median.estimate <= median.high
    assert median.estimate == pytest.approx(2.0, abs=0.2)
    assert describe(difference).startswith(f"{difference.estimate:+.2f} m/s² [")
    assert evaluated.record["comparisons"]["fast"]["judge_aligned_iou_ratio"] == pytest.approx(1.0, abs=0.05)


def test_a_vanished_object_is_a_miss_and_pays(evaluated):
    arm = evaluated.record["arms"]["vanish"]
    assert arm["summary"]["judge"]["measurable"] == pytest.approx(2 / 3)
    assert arm["summary"]["judge"]["within"].estimate == pytest.approx(2 / 3)
    assert math.isnan(arm["clips"][0]["judge"]["g_m_s2"])
    assert arm["clips"][0]["judge"]["reason"]
    assert arm["clips"][0]["judge"]["trajectory_l2_m"] > 0.5
    assert evaluated.record["comparisons"]["vanish"]["judge_g_m_s2"].dropped == 1


def test_vanishing_is_counted_and_only_the_published_figures_forgive_it(evaluated):
    gone = evaluated.record["arms"]["vanish"]["clips"][0]["judge"]
    assert gone["vanished"] > 0.7
    assert gone["published_l2"] < 0.01
    assert gone["published_chamfer"] < 0.05
    assert gone["chamfer_px"] > 0.7 * math.hypot(64, 64) - 1
    assert gone["trajectory_l2_px"] > 50


def test_landing_times_of_slow_falls_differ_from_the_true_ones(evaluated):
    """A fall of 1.3 m takes 0.5 s; at 3 to 5 m/s^2 it takes 0.7 to 0.9 s. The true clips land when they should."""
    for clip in evaluated.record["arms"]["truth"]["clips"]:
        assert clip["judge"]["landing_s"] == pytest.approx(clip["judge"]["true_landing_s"], abs=0.02)
    slow = evaluated.record["arms"]["slow"]["summary"]["judge"]["landing_ks"]
    assert (slow.estimate, slow.count) == (1.0, 3)
    assert slow.low <= slow.estimate <= slow.high


def test_a_landing_is_timed_between_the_frames_in_which_the_object_is_seen():
    time_T = torch.arange(6) / 10
    gone = math.nan
    assert landing_time(torch.tensor([2.0, 1.8, 1.2, 0.4, 0.3, 0.9]), time_T, 0.8) == pytest.approx(0.25)
    assert landing_time(torch.tensor([2.0, 1.8, gone, 0.4, 0.3, 0.9]), time_T, 1.1) == pytest.approx(0.2)
    assert landing_time(torch.tensor([gone, 1.0, 0.9, 0.9, 0.9, 0.9]), time_T, 1.0) == pytest.approx(0.1)
    assert math.isnan(landing_time(torch.tensor([2.0, 1.9, 1.8, 1.7, 1.6, 1.5]), time_T, 0.8))
    assert math.isnan(landing_time(torch.full((6,), gone), time_T, 0.8))


def test_energy_restitution_and_galileo_of_true_clips(evaluated):
    """A true fall has Galileo's ratio 1, loses energy at the floor and comes up slower than it went down."""
    found = evaluated.record["arms"]["truth"]["summary"]["judge"]
    assert found["galileo"].estimate == pytest.approx(1.0, abs=0.06)
    for clip in evaluated.record["arms"]["truth"]["clips"]:
        rise, back = clip["judge"]["energy_rise"], clip["judge"]["restitution"]
        assert math.isnan(rise) or rise < 0.05
        assert math.isnan(back) or 0 < back < 0.9


def test_details_table_has_every_arm_and_no_empty_cell(evaluated):
    lines = details_table(evaluated.record).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| truth", "| slow", "| fast", "| vanish"]
    assert len({line.count("|") for line in lines}) == 1
    assert "nan" not in "".join(lines)


def test_seeds_that_differ_have_diversity(evaluated):
    measured = evaluated.arm("slow")
    assert math.isnan(evaluated.record["arms"]["slow"]["summary"]["diversity"])
    twice = dataclasses.replace(
        measured,
        frames=[frame for frame in measured.frames for _ in range(2)],
        seeds=[0, 1] * len(measured.frames),
    )
    assert diversity(twice) == 0.0
    black = [frame * (i % 2) for i, frame in enumerate(twice.frames)]
    assert diversity(dataclasses.replace(twice, frames=black)) > 0.2


def test_table_shows_what_was_measured(evaluated):
    lines = markdown_table(evaluated.record).splitlines()
    assert lines[0].startswith("| arm | measurable | g (m/s²), judge")
    assert "within 15%" in lines[0]
    assert lines[2].startswith("| truth | 100% |")
    assert lines[5].startswith("| vanish | 67% | ")
    assert lines[3].count("|") == lines[0].count("|")


def test_a_shrunken_object_shows_in_area_and_iou(world, tmp_path):
    def shrink(scene, _):
        body = scene.bodies[0]
        return paint(dataclasses.replace(scene, bodies=(dataclasses.replace(body, size_m=body.size_m * 0.7),)))

    row = rows_of_split("heldout", scenes=1, at_rest=True, root=world)[0]
    scene = Scene.from_json(str(row["scene"]))
    frames_TCHW = torch.from_numpy(shrink(scene, 0)).permute(0, 3, 1, 2).float() / 255
    video = to_video(collate([row])).with_frames(frames_TCHW[None])
    assert video.at_rest_B is not None and video.at_rest_B.all()
    reading = read(PlaneJudge().score(video, {}, False).observation)[0]
    figures = clip_figures(frames_TCHW, {"reward": reading, "judge": reading}, TrueScene(scene), g_m_s2=9.81)
    assert figures["judge"]["area_ratio"] == pytest.approx(0.49, abs=0.08)
    assert figures["judge"]["aligned_iou"] == pytest.approx(0.49, abs=0.08)
    assert figures["disagreement"] == 0.0


def test_rewards_get_the_columns_that_they_get_in_training(world, tmp_path):
    seen: list[dict] = []

    class Curious(PlaneJudge):
        def score(self, video, columns, grad):
            seen.append(columns)
            return super().score(video, columns, grad)

    evaluate(config(world, tmp_path, arm=["truth"], scenes=2), instruments={"reward": Curious(), "judge": PlaneJudge()})
    trained_on = Scenes(DataConfig(dataset=str(world)), "heldout", shuffle=False).batch([0, 1]).columns
    assert set(seen[0]) == set(trained_on) - {"depth_BTHW", "flow_BSHW2"}
    assert torch.equal(seen[0]["g_m_s2_B"], trained_on["g_m_s2_B"])


def test_models_are_sampled_once_and_reported(world, tmp_path):
    arms = ["truth", "autoencoder", "base"]
    first = evaluate(config(world, tmp_path, arm=arms, scenes=1), instruments=INSTRUMENTS)
    out = tmp_path / "out"
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    assert len(made) == 3
    record = json.loads((out / "evaluation.json").read_text())
    assert [len(record["arms"][name]["clips"]) for name in arms] == [1, 1, 1]
    assert record["arms"]["base"]["source"]["kind"] == "model"
    page = (out / "report.html").read_text()
    assert page.count("<video") == 3
    for name in ("g_by_arm.png", "trajectories.png", "track.png", "strip_0.png"):
        assert (out / name).stat().st_size > 1000
        assert name in page
    sources = [part.split('"')[0] for part in page.split('<video src="')[1:]]
    assert all((out / source).exists() for source in sources)
    assert markdown_table(first.record) == (out / "table.md").read_text().strip()
    clips = Clips(str(world / "model"), out / "arms", batch_size=2, overwrite=False)
    rows = rows_of_split("heldout", scenes=2, at_rest=True, root=world)
    assert len(clips.of(first.arm("base").arm, rows, [0])) == 2
    assert made.items() <= {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}.items()


def test_summary_of_scenes_with_several_seeds_counts_scenes():
    same = dict.fromkeys((*DETAILS, *MOTION, "area_ratio", "aligned_iou", "landing_s", "true_landing_s"), 1.0)
    picture = dict.fromkeys(("disagreement", "background_psnr_db", "sharpness", "colour_shift"), 1.0)

    def clip(scene, g):
        one = same | {"g_m_s2": g, "g_scaled_m_s2": g, "g_error": abs(g - 9.81) / 9.81}
        return {"scene": scene, "reward": one, "judge": one, **picture}

    found = summary([clip("a", 9.81), clip("a", 9.81), clip("b", 2.0), clip("b", math.nan)], tolerance=0.15)
    assert found["judge"]["within"].estimate == 0.5
    assert found["judge"]["within"].count == 2
    assert found["judge"]["measurable"] == 0.75
    assert found["judge"]["g_m_s2"].estimate == 9.81  # of the three clips, not of the two scenes' means
    assert found["judge"]["g_m_s2"].low == 2.0 and found["judge"]["g_m_s2"].count == 2
    assert found["judge"]["landing_ks"].estimate == 0.0
    assert found["judge"]["iou"].count == 2
    assert found["judge"]["g_spread_within_m_s2"] == 0.0  # of scene a; scene b has one measurable seed
    assert found["judge"]["g_spread_between_m_s2"] == pytest.approx((9.81 - 2.0) / math.sqrt(2))


def test_arms_are_parsed_and_bad_ones_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("num_inference_steps: 4\nadapter_sigma_range: [0.5, 1.0]\nseed: 1\n")
    arms = parse_arms(["truth", "base", f"early={tmp_path / 'run'}"], EvaluationConfig())
    assert [arm.kind for arm in arms] == ["truth", "model", "model"]
    assert (arms[1].sampling, arms[1].sampling.num_inference_steps) == (arms[2].sampling, 4)
    assert (arms[1].adapter_sigma_range, arms[2].adapter_sigma_range) == ((0.0, 1.0), (0.5, 1.0))
    for text, message in [
        ("tuned", "needs a path"),
        ("a=absent", "nothing at absent"),
        ("a/b=.", "letters"),
        ("base", "must differ"),
    ]:
        with pytest.raises(ValueError, match=message):
            parse_arms(["base", text], EvaluationConfig())


def test_repeated_flags_are_gathered():
    assert gather_repeated(["--arm", "a", "--scenes", "3", "--arm", "b=c", "d"], "--arm") == [
        *("--scenes", "3"), *("--arm", "a", "b=c", "d"),
    ]  # fmt: skip
    assert gather_repeated(["--arm=a=b", "--at_rest"], "--arm") == ["--at_rest", "--arm", "a=b"]
    assert gather_repeated(["--scenes", "3"], "--arm") == ["--scenes", "3"]


def test_json_has_no_nan():
    assert plain({"a": math.nan, "b": (1.5, math.inf), 3: "x"}) == {"a": None, "b": [1.5, None], "3": "x"}


def test_arm_and_lora_together_are_refused(world, tmp_path):
    with pytest.raises(ValueError, match="either arm or lora"):
        evaluate(config(world, tmp_path, arm=["base"], lora_path="x"), instruments=INSTRUMENTS)


def test_collision_is_read_where_two_bodies_meet():
    """By the judge's instruments on the shipped training clips: nothing to read where there is one body."""
    table = load_split("train", columns=LIGHT_COLUMNS)
    kinds = [json.loads(scene)["kind"] for scene in table["scene"]]
    one, two = ([i for i, kind in enumerate(kinds) if kind == wanted][:8] for wanted in ("drop", "collide"))
    assert len(one) and len(two)
    batch = collate([table[i] for i in (*one, *two)])
    instruments = load_recipe("configs/recipes/judge_scene.yaml").instruments
    found = [reading.collision for reading in read(Observation(to_video(batch), instruments, grad=False))]
    assert all(math.isnan(value) for value in found[: len(one)])
    measured = [value for value in found[len(one) :] if math.isfinite(value)]
    assert len(measured) >= 3 and statistics.median(measured) > -0.1

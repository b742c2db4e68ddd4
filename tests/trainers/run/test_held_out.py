"""Evaluations during training: a judge's mean with its interval, also where it measures nothing in metres."""

import dataclasses
import json
import math
import types
from pathlib import Path

import pytest
import torch

from reward_physics.observation import Instruments, Observation
from reward_physics.video import Video
from trainers.learning.scoring import Scored
from trainers.monitor import __main__ as monitor
from trainers.oro import train
from trainers.run.held_out import Judged, Share, ends_of, in_order, means_of, measured_g


def test_the_ends_of_a_mean_stand_beside_it():
    ends = ends_of("judge/reward", torch.tensor([0.0, 1.0, 2.0, 3.0]))
    assert set(ends) == {"judge/reward/low", "judge/reward/high"}
    assert 0.0 <= ends["judge/reward/low"] < 1.5 < ends["judge/reward/high"] <= 3.0
    assert ends == ends_of("judge/reward", torch.tensor([0.0, 1.0, 2.0, 3.0])), "the same each time"
    assert ends_of("judge/reward", torch.tensor([1.0])) == {}


def test_a_judge_without_metres_has_no_g_and_stops_nothing():
    video = Video.make(torch.rand(2, 6, 3, 16, 16), 16.0, first_mask_BHW=torch.ones(2, 16, 16))
    observation = Observation(video, Instruments(flow=None, depth=None, mask="appearance"), grad=False)
    with pytest.raises(ValueError, match="metres per second squared are refused"):
        _ = observation.fit
    assert measured_g(observation, torch.ones(2)).isnan().all()


def test_a_run_logs_the_interval_and_the_monitor_shows_it(toy_config, brightness, tmp_path, capsys):
    config = toy_config(max_steps=1, eval_steps=1, eval_scenes=3)
    train(config, recipe=brightness())
    folder = Path(config.output_dir)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    judged = [line for line in lines if "eval/reward" in line]
    assert judged
    for line in judged:
        low, high = line["eval/reward/low"], line["eval/reward/high"]
        assert low < line["eval/reward"] < high and math.isfinite(high - low)
    capsys.readouterr()
    monitor.main([str(folder)])
    text = " ".join(capsys.readouterr().out.split())
    interval = f"[{judged[-1]['eval/reward/low']:.4g}, {judged[-1]['eval/reward/high']:.4g}]"
    assert interval in text and "eval/reward/low" not in text
    monitor.main([str(folder), "--html", str(tmp_path / "run.html")])
    page = (tmp_path / "run.html").read_text()
    assert f"eval/reward {judged[-1]['eval/reward']:.4g} {interval}" in page
    assert 'alt="eval/reward"' in page and 'alt="eval/reward/low"' not in page


def judged(batch):
    """What a process has judged of one batch, a scene."""
    value = torch.tensor([float(batch)])
    scored = Scored(reward_B=value, terms={}, measurable_B=value, reasons=[None])
    pictures = [torch.full((1, 3, 2, 2), float(batch))]
    return Judged(batch=batch, scored={"eval": scored}, g_m_s2={"eval": [float(batch)]}, pictures=pictures, fps=16.0)


@pytest.mark.parametrize("places", [1, 2, 3, 8])
def test_every_batch_is_judged_once_and_in_step_where_no_process_may_be_alone(places):
    for in_step in (False, True):
        shares = [Share(place=place, places=places, in_step=in_step).of(5) for place in range(places)]
        assert sorted(batch for share in shares for batch, counts in share if counts) == [0, 1, 2, 3, 4]
        assert not in_step or len({len(share) for share in shares}) == 1


def test_parts_are_joined_in_the_order_of_the_scenes():
    found = in_order([[judged(0), judged(2), judged(4)], [], [judged(1), judged(3)]])
    assert [part.batch for part in found] == [0, 1, 2, 3, 4] and in_order([]) == []
    means = means_of(found, {"eval": types.SimpleNamespace()})
    assert means["eval/reward"] == 2.0 and means["eval/g_m_s2"] == 2.0


def test_prices_are_those_of_all_scenes_whatever_process_judged_them():
    """A recipe prices a hidden clip at the worst of the clips that it is shown together."""

    def total(terms, visibility_B):
        bright_B = terms["bright"]
        return bright_B.where(bright_B.isfinite(), bright_B.nan_to_num(nan=torch.inf).min()), None

    def part(batch, bright):
        value = torch.tensor([bright])
        scored = Scored(
            reward_B=torch.zeros(1),
            terms={"bright": value},
            measurable_B=value.isfinite().float(),
            reasons=[None],
            visibility_B=torch.ones(1),
        )
        return dataclasses.replace(judged(batch), scored={"eval": scored})

    found = in_order([[part(0, 3.0), part(2, math.nan)], [part(1, 1.0)]])
    assert means_of(found, {"eval": types.SimpleNamespace(total=total)})["eval/reward"] == pytest.approx(5 / 3)


def test_clips_longer_than_the_datas_are_evaluated(toy_config, brightness):
    config = toy_config(num_frames=17, max_steps=1, eval_steps=1, eval_scenes=2)
    assert math.isfinite(train(config, recipe=brightness())["eval/reward"])
    assert (Path(config.output_dir) / "eval" / "step_0" / "clips.mp4").is_file()


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_the_first_evaluation_would_meet_is_met_before(dry_run, toy_config, brightness, tmp_path):
    """A judge that needs a column that the data lacks, and one that needs as many frames as are generated."""
    (tmp_path / "mine.py").write_text(
        "def spin(observation, *, spin_hz_B):\n    return spin_hz_B\n"
        "def same(observation, *, reference_BTCHW):\n"
        "    return (observation.video.frames_BTCHW - reference_BTCHW).mean((1, 2, 3, 4))\n"
    )
    for name, frames, said in (("spin", 9, "spin_hz_B"), ("same", 17, "same")):
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(
            f"instruments: {{flow: null, depth: null, mask: motion}}\nrewards:\n  - {{name: 'mine.py:{name}'}}\n"
        )
        config = toy_config(num_frames=frames, eval_steps=1, eval_recipe=str(recipe), dry_run=dry_run)
        with pytest.raises(ValueError, match=f"first evaluation, on eval_split validation, would fail: .*{said}"):
            train(config, recipe=brightness())
        assert not Path(config.output_dir).exists()


def test_fewer_held_out_scenes_than_asked_for_are_told(toy_config, brightness):
    with pytest.warns(UserWarning, match="eval_scenes 6 is more than the 3 scenes of eval_split validation"):
        train(toy_config(eval_steps=1, dry_run=True), recipe=brightness())


def test_prompts_alone_are_trained_on_and_evaluated(toy_config, brightness, tmp_path):
    (tmp_path / "p.txt").write_text("a ball is thrown\na cup drops\n")
    size = {"num_frames": 9, "height": 32, "width": 32, "fps": 8.0, "image_conditioning": False}
    config = toy_config(dataset=str(tmp_path / "p.txt"), **size, max_steps=1, eval_steps=1, eval_scenes=2)
    assert math.isfinite(train(config, recipe=brightness())["eval/reward"])
    again = dataclasses.replace(config, denoising_weight=1.0, dry_run=True, output_dir=str(tmp_path / "again"))
    with pytest.raises(ValueError, match=r"denoising_weight needs clips, and .*p\.txt holds prompts alone"):
        train(again, recipe=brightness())

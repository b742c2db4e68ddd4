"""Arms that are compared are sampled alike, and clips of text alone are not compared with the data's scenes."""

import json

import pytest

from trainers.evaluation.arms import parse_arms
from trainers.evaluation.evaluate import evaluate
from trainers.evaluation.measured import EvaluationConfig
from trainers.models.tiny.wan import tiny_wan


def run(folder, text):
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    return str(folder)


def test_base_and_lora_have_the_sampler_of_the_run(tmp_path):
    text = "num_inference_steps: 4\nguidance_scale: 3.0\nnegative_prompt: blurred\n"
    arms = parse_arms(["base", f"lora={run(tmp_path / 'run', text)}"], EvaluationConfig())
    for arm in arms:
        sampling = arm.sampling
        assert (sampling.num_inference_steps, sampling.guidance_scale, sampling.negative_prompt) == (4, 3.0, "blurred")
    flags = EvaluationConfig(num_inference_steps=6, guidance_scale=1.0)
    arms = parse_arms(["base", f"lora={tmp_path / 'run'}"], flags)
    assert [arm.sampling.num_inference_steps for arm in arms] == [6, 6]


def test_runs_that_sampled_differently_are_refused_with_every_difference(tmp_path):
    one = run(tmp_path / "one", "num_inference_steps: 4\nguidance_scale: 3.0\n")
    two = run(tmp_path / "two", "num_inference_steps: 8\nguidance_scale: 1.0\n")
    with pytest.raises(
        ValueError, match=r"num_inference_steps \(one: 4, two: 8\), guidance_scale \(one: 3.0, two: 1.0"
    ):
        parse_arms([f"one={one}", f"two={two}"], EvaluationConfig())
    parse_arms([f"one={one}", f"two={two}"], EvaluationConfig(num_inference_steps=8, guidance_scale=1.0))


def test_clips_made_with_another_sampler_are_refused(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "samples.jsonl").write_text("")
    (tmp_path / "clips" / "settings.json").write_text(json.dumps({"num_inference_steps": 4}))
    with pytest.raises(ValueError, match="its clips were made with num_inference_steps 4, the others are with 8"):
        parse_arms(["base", f"x={tmp_path / 'clips'}"], EvaluationConfig(num_inference_steps=8))


def test_text_to_video_is_scored_by_what_it_shows(tmp_path):
    tiny_wan(tmp_path / "wan")
    asked = {
        "model_name_or_path": str(tmp_path / "wan"),
        "split": "validation",
        "scenes": 1,
        "num_inference_steps": 1,
        "output_dir": str(tmp_path / "out"),
    }
    record = evaluate(EvaluationConfig(**asked)).record
    assert record["settings"]["image_conditioning"] is False
    assert record["settings"]["judge"] == "configs/recipes/text_to_video.yaml"
    assert "g_m_s2" not in record["arms"]["base"]["clips"][0]["judge"]
    assert "of text alone" in (tmp_path / "out" / "table.md").read_text()
    assert "sampled with 1 steps, guidance 1, in float32" in (tmp_path / "out" / "table.md").read_text()
    for name in ("configs/recipes/judge_scene.yaml", "configs/recipes/gravity_positions.yaml"):
        with pytest.raises(ValueError, match="cannot judge text-to-video, which shares no first frame"):
            evaluate(EvaluationConfig(**asked, judge=name))

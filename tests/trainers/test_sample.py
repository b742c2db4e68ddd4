import json

import pytest
import torch
from PIL import Image

from trainers.clips.folder import read_clip, read_samples
from trainers.clips.making import Request, batches, generate, load_model, model_settings, request_for_row, rows_of_split
from trainers.models import load_video_model
from trainers.models.tiny.ltx import tiny_ltx
from trainers.models.tiny.wan import tiny_wan
from trainers.sample import SampleConfig, sample_clips
from trainers.settings.sampling import Sampling

SIZE = {"num_frames": 9, "height": 32, "width": 32, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    tiny_ltx(path)
    return str(path)


@pytest.fixture(scope="module")
def image_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "first.png"
    Image.new("RGB", (80, 40), (200, 40, 40)).save(path)
    return str(path)


def config(model_path, output_dir, **changes) -> SampleConfig:
    return SampleConfig(
        **{
            "model_name_or_path": model_path,
            "output_dir": str(output_dir),
            "prompt": "a ball",
            "fps": 16,
            **SIZE,
            **changes,
        }
    )


def test_clips_come_with_prompts_and_seeds(model_path, image_path, tmp_path):
    sample_clips(config(model_path, tmp_path / "x", image=image_path, seeds=[3, 4]))
    samples = read_samples(tmp_path / "x")
    assert [(s.prompt, s.seed, s.fps) for s in samples.values()] == [("a ball", 3, 16.0), ("a ball", 4, 16.0)]
    one, two = (read_clip(tmp_path / "x", name) for name in samples)
    assert one.shape == (9, 3, 32, 32)
    assert (one - two).abs().max() > 0.02
    assert all((tmp_path / "x" / "clips" / f"{name}.mp4").exists() for name in samples)


def test_a_stopped_run_goes_on_and_makes_the_same_clips(model_path, tmp_path):
    sample_clips(config(model_path, tmp_path / "whole", seeds=[0, 1, 2]))
    sample_clips(config(model_path, tmp_path / "parts", seeds=[0]))
    first = (tmp_path / "parts" / "clips" / "clip-0.npz").stat().st_mtime_ns
    sample_clips(config(model_path, tmp_path / "parts", seeds=[0, 1, 2], batch_size=1))
    assert (tmp_path / "parts" / "clips" / "clip-0.npz").stat().st_mtime_ns == first
    for name in read_samples(tmp_path / "whole"):
        torch.testing.assert_close(
            read_clip(tmp_path / "whole", name), read_clip(tmp_path / "parts", name), atol=1.01 / 255, rtol=0
        )


def test_a_lora_changes_the_clips_and_counts_as_another_setting(model_path, tmp_path):
    sample_clips(config(model_path, tmp_path / "x"))
    before = read_clip(tmp_path / "x", "clip-0")
    model = load_video_model(model_path)
    model.add_lora(r=2, alpha=2)
    for name, weight in model.transformer.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(0))
    model.save_lora(tmp_path / "lora")
    with_lora = config(model_path, tmp_path / "x", lora_path=str(tmp_path / "lora"))
    with pytest.raises(ValueError, match="another lora"):
        sample_clips(with_lora)
    sample_clips(config(model_path, tmp_path / "x", lora_path=str(tmp_path / "lora"), overwrite_output_dir=True))
    assert (read_clip(tmp_path / "x", "clip-0") - before).abs().max() > 0.02


def test_a_first_frame_is_kept(model_path, image_path, tmp_path):
    model = load_video_model(model_path)
    settings = model_settings(model_path, None, Sampling(num_inference_steps=2))
    row = {
        "id": "heldout-7", "seed": 7, "caption": "a ball", "fps": 16.0,
        "frames": torch.randint(256, (9, 32, 32, 3), generator=torch.Generator().manual_seed(0)).numpy(),
    }  # fmt: skip
    request = request_for_row(row, seed=1)
    assert request.size == (9, 32, 32, True)
    assert request_for_row(row, seed=2).sample.seed != request.sample.seed
    assert request_for_row(row | {"frames": row["frames"] // 2}, seed=1).sample != request.sample
    assert generate(model, [request], settings).shape == (1, 9, 3, 32, 32)


def test_batches_never_mix_sizes():
    def request(frames):
        from trainers.clips.folder import Sample

        return Request(sample=Sample(name="a", prompt="", seed=0, fps=1), num_frames=frames, height_px=32, width_px=32)

    sizes = [[r.num_frames for r in batch] for batch in batches([request(n) for n in (9, 9, 9, 5, 9)], 2)]
    assert sizes == [[9, 9], [9], [5], [9]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, "give split, or prompt"),
        ({"fps": None}, "give fps"),
        ({"image": "absent.png"}, "cannot read the picture absent.png"),
        ({"lora_path": "absent"}, "no LoRA at absent"),
        ({"split": "heldout"}, "leave out image and prompt"),
        ({"height": 33}, "multiple of 32"),
        ({"split": "heldot", "prompt": None}, "heldot"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(model_path, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sample_clips(config(model_path, tmp_path / "x", **changes))
    assert not (tmp_path / "x").exists()


def test_rows_of_a_split_start_from_rest_where_asked():
    rows = rows_of_split("heldout", scenes=5, at_rest=True)
    assert len(rows) == 5
    assert all(row["at_rest"] for row in rows)
    with pytest.raises(ValueError, match="lower scenes"):
        rows_of_split("heldout", scenes=100_000, at_rest=True)


def test_rows_of_a_split_come_at_a_lower_rate():
    (whole,) = rows_of_split("validation", scenes=1, at_rest=True)
    (half,) = rows_of_split("validation", scenes=1, at_rest=True, fps=8.0)
    assert request_for_row(half, 0).num_frames == 9
    assert request_for_row(half, 0).sample.fps == 8.0
    assert (half["frames"] == whole["frames"][::2]).all()
    with pytest.raises(ValueError, match="fps 24 is above the 16 frames a second"):
        rows_of_split("validation", scenes=1, at_rest=True, fps=24.0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompt": "a blue box"}, "prompt"),
        ({"fps": 8}, "fps"),
        ({"height": 64}, "height"),
        ({"num_frames": 17}, "num_frames"),
        ({"num_inference_steps": 3}, "num_inference_steps"),
        ({"guidance_scale": 2.0}, "guidance_scale"),
        ({"negative_prompt": "blurred"}, "negative_prompt"),
        ({"bf16": True}, "dtype"),
        ({"seeds": [1]}, "set of seeds"),
    ],
)
def test_another_request_is_refused_by_name_and_changes_nothing(model_path, tmp_path, changes, named):
    sample_clips(config(model_path, tmp_path / "x"))
    (tmp_path / "x" / "rewards.jsonl").write_text('{"name": "clip-0", "reward": 1.0}\n')
    before = {path: path.read_bytes() for path in (tmp_path / "x").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=f"another .*{named}.*: choose another output_dir, or set overwrite"):
        sample_clips(config(model_path, tmp_path / "x", **changes))
    assert {path: path.read_bytes() for path in (tmp_path / "x").rglob("*") if path.is_file()} == before
    sample_clips(config(model_path, tmp_path / "x", overwrite_output_dir=True, **changes))
    assert not (tmp_path / "x" / "rewards.jsonl").exists()
    assert len(read_samples(tmp_path / "x")) == 1


def test_a_clip_that_is_made_anew_has_no_score_and_a_half_line_spoils_no_other(model_path, tmp_path):
    sample_clips(config(model_path, tmp_path / "x", seeds=[0, 1]))
    folder = tmp_path / "x"
    (folder / "rewards.jsonl").write_text('{"name": "clip-0", "reward": 1.0}\n{"name": "clip-1", "reward": 2.0}\n')
    (folder / "clips" / "clip-0.npz").unlink()
    lines = (folder / "samples.jsonl").read_text()
    (folder / "samples.jsonl").write_text(lines[:-20])
    sample_clips(config(model_path, folder, seeds=[0, 1]))
    assert sorted(read_samples(folder)) == ["clip-0", "clip-1"]
    assert not (folder / "rewards.jsonl").read_text()


def test_clips_of_before_negative_prompts_go_on(model_path, tmp_path):
    sample_clips(config(model_path, tmp_path / "x"))
    record = tmp_path / "x" / "settings.json"
    old = json.loads(record.read_text())
    for name in ("negative_prompt", "dtype", "image_conditioning", "decode_tile_px"):
        old.pop(name)
    record.write_text(json.dumps(old))
    sample_clips(config(model_path, tmp_path / "x", seeds=[0, 1]))
    record.write_text(json.dumps(old))
    with pytest.raises(ValueError, match="another negative_prompt"):
        sample_clips(config(model_path, tmp_path / "x", seeds=[0, 1], negative_prompt="blurred"))


def test_a_lora_samples_as_its_run_did(model_path, tmp_path):
    model = load_video_model(model_path)
    model.add_lora(r=2, alpha=2)
    model.save_lora(tmp_path / "lora")
    run = "num_inference_steps: 3\nguidance_scale: 2.0\nnegative_prompt: blurred\nadapter_sigma_range: [0.5, 1.0]\n"
    (tmp_path / "lora" / "config.yaml").write_text(run)
    asked = config(model_path, tmp_path / "x", lora_path=str(tmp_path / "lora"), num_inference_steps=None)
    made = sample_clips(asked).settings
    names = ("num_inference_steps", "guidance_scale", "negative_prompt", "adapter_sigma_range")
    assert [made[name] for name in names] == [3, 2.0, "blurred", [0.5, 1.0]]


def test_weights_are_loaded_in_the_type_that_is_asked_for(tmp_path):
    tiny_wan(tmp_path / "wan")

    def held(sampling):
        model = load_model(str(tmp_path / "wan"), None, sampling)
        modules = [part for part in model.pipeline.components.values() if isinstance(part, torch.nn.Module)]
        return sum(weight.nbytes for part in modules for weight in part.parameters())

    assert held(Sampling(bf16=True)) <= 0.55 * held(Sampling())


def test_text_to_video_samples_the_captions_of_a_split(tmp_path):
    tiny_wan(tmp_path / "wan")
    asked = {"model_name_or_path": str(tmp_path / "wan"), "split": "validation", "scenes": 1, "num_inference_steps": 1}
    made = sample_clips(SampleConfig(**asked, output_dir=str(tmp_path / "s")))
    assert made.settings["image_conditioning"] is False
    with pytest.raises(ValueError, match="text-to-video alone"):
        sample_clips(SampleConfig(**asked, output_dir=str(tmp_path / "t"), image_conditioning=True))
    assert not (tmp_path / "t").exists()

"""The scoring command: right answers on drawn and real clips, one clear line for everything that is wrong."""

import json

import av
import numpy as np
import pytest
import torch
from frame_folders import write_frames
from PIL import Image

from reward_physics.files.io import write_video
from rewards.score.__main__ import main

FPS, G_PX_S2 = 30, 500.0


def tossed(frames: int = 20, height: int = 120, width: int = 160, radius: float = 5.0) -> torch.Tensor:
    """A dark ball with hard edges tossed over a plain wall, with a softer, larger shadow beside it."""
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    clip = torch.empty(frames, 3, height, width)
    wall = 0.7 + 0.05 * torch.sin(u / 9) * torch.cos(v / 7)
    for t in range(frames):
        time = t / FPS
        x, y = 20 + 150 * time, 80 - 200 * time + 0.5 * G_PX_S2 * time**2
        shadow = (1 - torch.hypot(u - x - 25, v - y + 6) / 14).clamp(0, 1)
        ball = (radius + 0.5 - torch.hypot(u - x, v - y)).clamp(0, 1)
        colour = torch.tensor([0.25, 0.1, 0.1]).view(3, 1, 1)
        clip[t] = (wall * (1 - 0.35 * shadow)) * (1 - ball) + colour * ball
    return clip


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("instruments: {flow: null, depth: null, mask: motion}\nrewards: [{name: gravity}]\n")
    return str(path)


@pytest.fixture
def clip(tmp_path):
    return str(write_video(tmp_path / "toss.mp4", tossed(), fps=25, min_side_px=0))


def scored(capsys, *arguments: str) -> dict:
    status = main([*arguments, "--json"])
    output = capsys.readouterr().out
    result = json.loads(output)
    assert next(iter(result)) == "g_m_s2"
    result["status"] = status
    return result


def test_a_known_scale_gives_g(clip, recipe, capsys):
    result = scored(capsys, clip, "--recipe", recipe, "--fps", "30", "--px_per_m", "50")
    assert result["status"] == 0
    assert result["g_m_s2"] == pytest.approx(10.0, rel=0.02)
    assert result["g_low_m_s2"] < 10.0 < result["g_high_m_s2"]
    assert result["rewards"]["gravity"] == pytest.approx(-((10 / 9.81 - 1) ** 2), abs=2e-3)


def test_a_known_diameter_gives_g(clip, recipe, capsys):
    """Ten pixels of 0.2 m are 50 px a metre."""
    result = scored(capsys, clip, "--recipe", recipe, "--fps", "30", "--object_diameter_m", "0.2")
    assert result["g_m_s2"] == pytest.approx(10.0, rel=0.08)


def test_a_camera_and_a_diameter_give_g(clip, recipe, capsys):
    result = scored(capsys, clip, "--recipe", recipe, "--fps", "30", "--object_diameter_m", "0.2", "--camera", "30")
    assert result["g_m_s2"] == pytest.approx(10.0, rel=0.08)


def test_without_a_scale_metres_are_refused(clip, recipe, capsys):
    result = scored(capsys, clip, "--recipe", recipe, "--fps", "30")
    assert result["status"] == 0
    assert result["g_m_s2"] is None
    assert "--px_per_m" in result["not_measurable"]["g_m_s2"]
    assert result["unit_free"]["galileo_ratio"] == pytest.approx(1.0, abs=0.1)
    assert result["unit_free"]["direction_from_down_deg"] < 3
    assert result["acceleration_px_s2"] == pytest.approx(G_PX_S2, rel=0.02)
    assert "refused" in result["not_measurable"]["rewards.gravity"]


def test_the_rate_is_never_guessed(clip, recipe, capsys):
    result = scored(capsys, clip, "--recipe", recipe, "--px_per_m", "50")
    assert result["status"] == 1
    assert "25" in result["error"] and "--fps" in result["error"]
    believed = scored(capsys, clip, "--recipe", recipe, "--px_per_m", "50", "--fps", "container")
    assert believed["g_m_s2"] == pytest.approx(10.0 * (25 / 30) ** 2, rel=0.02)


def test_a_given_box_chooses_the_object(clip, recipe, capsys):
    """The box on the shadow measures the shadow, which falls alike."""
    result = scored(capsys, clip, "--recipe", recipe, "--fps", "30", "--px_per_m", "50", "--mask", "36,66,54,84")
    assert result["object_diameter_px"] > 12
    assert result["g_m_s2"] == pytest.approx(10.0, rel=0.05)


def test_a_clip_that_stands_still_has_no_motion(tmp_path, recipe, capsys):
    path = str(write_video(tmp_path / "still.mp4", tossed()[:1].repeat(12, 1, 1, 1), fps=30, min_side_px=0))
    result = scored(capsys, path, "--recipe", recipe, "--fps", "30", "--px_per_m", "50")
    assert result["g_m_s2"] is None
    assert "no motion" in result["not_measurable"]["g_m_s2"]


def test_report_is_one_file_and_other_clips_go_on(clip, recipe, tmp_path, capsys):
    status = main([clip, "absent.mp4", "--recipe", recipe, "--fps", "30", "--px_per_m", "50", "--json",
                   "--report", str(tmp_path / "report")])  # fmt: skip
    good, bad = json.loads(capsys.readouterr().out)
    assert status == 1
    assert good["g_m_s2"] == pytest.approx(10.0, rel=0.02)
    assert "no clip at absent.mp4" in bad["error"]
    assert [file.name for file in (tmp_path / "report").iterdir()] == ["index.html"]
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "http://" not in page and "https://" not in page


def test_table_on_the_terminal(clip, recipe, capsys):
    assert main([clip, "--recipe", recipe, "--fps", "30", "--px_per_m", "50"]) == 0
    assert "m/s²" in capsys.readouterr().out


@pytest.fixture
def two(tmp_path):
    """Two dark balls that are tossed towards each other and pass, of 10 and of 6 m/s^2 at 50 px a metre."""
    v, u = torch.meshgrid(torch.arange(120) + 0.5, torch.arange(180) + 0.5, indexing="ij")
    clip = 0.7 + 0.05 * torch.sin(u / 9) * torch.cos(v / 7).expand(20, 3, -1, -1)
    time = (torch.arange(20) / FPS)[:, None, None]
    for x, y, g in ((20 + 200 * time, 85 - 230 * time, 500.0), (160 - 190 * time, 60 - 120 * time, 300.0)):
        ball = (5.5 - torch.hypot(u - x, v - y - 0.5 * g * time**2)).clamp(0, 1)[:, None]
        clip = clip * (1 - ball) + 0.1 * ball
    return str(write_video(tmp_path / "two.mp4", clip, fps=25, min_side_px=0))


@pytest.mark.parametrize("mask", [None, "14,79,26,91;154,54,166,66"], ids=["no mask", "two boxes"])
def test_several_objects_are_one_row_each(mask, two, recipe, tmp_path, capsys):
    options = [two, "--recipe", recipe, "--fps", "30", "--px_per_m", "50", *([] if mask is None else ["--mask", mask])]
    result = scored(capsys, *options, "--report", str(tmp_path / "report"))
    first, second = result["objects"]
    assert next(iter(first)) == "g_m_s2"
    assert [first["object"], second["object"]] == [1, 2]
    for one in (first, second):
        assert one["g_m_s2"] == pytest.approx(10.0 if one["first_at_px"][0] < 90 else 6.0, rel=0.04)
    assert sorted(one["first_at_px"][0] for one in (first, second)) == pytest.approx([20, 160], abs=1)
    # The clip's own numbers are those of its first object.
    assert result["g_m_s2"] == pytest.approx(first["g_m_s2"], rel=0.02)
    if mask is not None:
        assert first["first_at_px"][0] < 90
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "<h3>Object 2</h3>" in page
    assert main(options) == 0
    table = capsys.readouterr().out
    assert "2 objects" in table
    assert all(f"{one['g_m_s2']:.4g}" in table for one in (first, second))


def test_several_objects_without_a_scale(two, recipe, capsys):
    result = scored(capsys, two, "--recipe", recipe, "--fps", "30")
    for one in result["objects"]:
        assert one["g_m_s2"] is None and "g_m_s2" in one["not_measurable"]
        expected = 500 if one["first_at_px"][0] < 90 else 300
        assert one["acceleration_px_s2"] == pytest.approx(expected, rel=0.04)


def test_a_single_object_has_no_list_of_objects(clip, recipe, capsys):
    assert "objects" not in scored(capsys, clip, "--recipe", recipe, "--fps", "30", "--px_per_m", "50")


def _file(tmp_path, name: str):
    path = tmp_path / name
    frames = tossed(8)
    if name == "empty.mp4":
        path.write_bytes(b"")
    elif name == "text.mp4":
        path.write_text("no video " * 100)
    elif name == "one.mp4":
        write_video(path, frames[:1], fps=30)
    elif name == "cut.mp4":
        whole = write_video(tmp_path / "whole.mp4", frames, fps=30).read_bytes()
        path.write_bytes(whole[: len(whole) // 3])
    elif name == "huge":
        write_frames(path, frames[:6])
        Image.new("L", (10_000, 10_000)).save(path / "0000.png")
    elif name == "sizes":
        write_frames(path, frames[:6])
        Image.new("RGB", (50, 50)).save(path / "0003.png")
    elif name == "nothing":
        path.mkdir()
    return str(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.mp4", "no clip at"),
        ("empty.mp4", "empty"),
        ("text.mp4", "cannot read"),
        ("one.mp4", "at least 5"),
        ("cut.mp4", "cannot read"),
        ("huge", "10000 x 10000"),
        ("sizes", "one size"),
        ("nothing", "no frames"),
    ],
)
def test_bad_clips_are_one_clear_line(name, said, tmp_path, recipe, capsys):
    result = scored(capsys, _file(tmp_path, name), "--recipe", recipe, "--fps", "30", "--px_per_m", "50")
    assert result["status"] == 1
    assert said in result["error"]
    assert "\n" not in result["error"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fps", "0"],
        ["--fps", "nan"],
        ["--fps", "30", "--px_per_m", "-1"],
        ["--fps", "30", "--frames", "9:3"],
        ["--fps", "30", "--stride", "0"],
        ["--fps", "30", "--camera", "NAN_FILE"],
        ["--fps", "30", "--camera", "200"],
        ["--fps", "30", "--no_such_option", "1"],
    ],
)
def test_mistakes_in_the_command_end_with_2(arguments, clip, recipe, tmp_path, capsys):
    nan = tmp_path / "camera.yaml"
    nan.write_text("{intrinsics: [[.nan, 0, 1], [0, 1, 1], [0, 0, 1]], height_px: 120, width_px: 160}")
    arguments = [str(nan) if argument == "NAN_FILE" else argument for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        main([clip, "--recipe", recipe, *arguments])
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_recipe_ends_with_2(clip, capsys):
    with pytest.raises(SystemExit) as ended:
        main([clip, "--recipe", "absent.yaml", "--fps", "30"])
    assert ended.value.code == 2
    assert "no such recipe" in capsys.readouterr().err


def test_a_mask_of_another_size_is_refused(clip, recipe, tmp_path, capsys):
    Image.new("L", (20, 20), 255).save(tmp_path / "mask.png")
    mask = str(tmp_path / "mask.png")
    result = scored(capsys, clip, "--recipe", recipe, "--fps", "30", "--px_per_m", "50", "--mask", mask)
    assert result["status"] == 1
    assert "20 x 20" in result["error"] and "160 x 120" in result["error"]


@pytest.mark.parametrize("kind", ["alpha", "grey", "sixteen", "odd"])
def test_unusual_frames_are_measured(kind, tmp_path, recipe, capsys):
    frames = tossed()
    frames = frames[..., :119, :159] if kind == "odd" else frames
    folder = tmp_path / kind
    folder.mkdir()
    for t, frame in enumerate(frames):
        image = Image.fromarray((frame.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        if kind == "alpha":
            image.putalpha(255)
        elif kind == "grey":
            image = image.convert("L")
        elif kind == "sixteen":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        image.save(folder / f"{t:03d}.png")
    result = scored(capsys, str(folder), "--recipe", recipe, "--fps", "30", "--px_per_m", "50")
    assert result["g_m_s2"] == pytest.approx(10.0, rel=0.02)


@pytest.mark.parametrize("suffix", [".avi", ".webm", ".gif"])
def test_other_containers_are_measured(suffix, tmp_path, recipe, capsys):
    path = tmp_path / f"toss{suffix}"
    if suffix == ".gif":
        write_video(path, tossed(), fps=25, min_side_px=0)
    else:
        codec = "mpeg4" if suffix == ".avi" else "libvpx"
        if codec not in av.codecs_available:
            pytest.skip(f"this FFmpeg has no {codec}")
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=30)
            stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 160, 120, "yuv420p", 2_000_000
            for frame in tossed():
                pixels = np.ascontiguousarray((frame.permute(1, 2, 0).numpy() * 255).astype(np.uint8))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    result = scored(capsys, str(path), "--recipe", recipe, "--fps", "30", "--px_per_m", "50")
    assert result["g_m_s2"] == pytest.approx(10.0, rel=0.04)


PUBLISHED = (
    "instruments: {{flow: {weights}, depth: null, mask: motion, flow_updates: 12}}\nrewards: [{{name: gravity}}]\n"
)


@pytest.fixture
def published(testdata, tmp_path):
    """A recipe with the published RAFT-small."""
    path = tmp_path / "published.yaml"
    path.write_text(PUBLISHED.format(weights=testdata / "weights" / "raft-small.pth"))
    return str(path)


@pytest.mark.slow
@pytest.mark.realdata
def test_real_projectile(testdata, published, capsys):
    clip = str(testdata / "clips" / "phystrack_projectile_30deg.mp4")
    result = scored(capsys, clip, "--recipe", published, "--fps", "240", "--px_per_m", "317.5", "--frames", "264:335")
    assert result["g_m_s2"] == pytest.approx(9.81, rel=0.05)
    assert result["g_low_m_s2"] < 9.81 < result["g_high_m_s2"]


@pytest.mark.slow
@pytest.mark.realdata
def test_real_toss(testdata, published, capsys):
    clip = str(testdata / "clips" / "osp_ball_toss.mp4")
    result = scored(capsys, clip, "--recipe", published, "--fps", "30", "--px_per_m", "398.7")
    assert result["g_m_s2"] == pytest.approx(9.81, rel=0.08)


@pytest.mark.slow
@pytest.mark.realdata
def test_real_toss_without_scale(testdata, published, capsys):
    clip = str(testdata / "clips" / "trflorian_ball_toss.mp4")
    result = scored(capsys, clip, "--recipe", published, "--fps", "29.83", "--frames", "21:32")
    assert result["g_m_s2"] is None
    assert "--px_per_m" in result["not_measurable"]["g_m_s2"]
    assert result["unit_free"]["galileo_ratio"] == pytest.approx(1.0, abs=0.1)
    assert result["unit_free"]["arc_residual"] < 0.03
    assert result["unit_free"]["direction_from_down_deg"] < 5

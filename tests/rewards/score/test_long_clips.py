"""The scoring command on what phones record: uneven times, large pictures, slow motion, and things that only roll."""

import json

import pytest
from drawn_balls import balls, uneven_times, write_timed

import rewards.score.cutting
import rewards.score.reading
from rewards.score.__main__ import main

G_PX_S2 = 500.0


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("instruments: {flow: null, depth: null, mask: motion}\nrewards: [{name: gravity}]\n")
    return str(path)


def scored(capsys, *arguments: str) -> dict:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def tossed(time: float) -> tuple[float, float]:
    return 20 + 150 * time, 80 - 200 * time + 0.5 * G_PX_S2 * time**2


def test_uneven_times_give_the_g_of_a_constant_rate(tmp_path, recipe, capsys):
    even, uneven = [t / 30 for t in range(24)], uneven_times(23 / 30)
    read = []
    for name, times in (("even", even), ("uneven", uneven)):
        clip = write_timed(tmp_path / f"{name}.mp4", balls(times, tossed), times)
        result = scored(capsys, clip, "--recipe", recipe, "--fps", "container", "--px_per_m", "50")
        read.append(result["g_m_s2"])
    assert read[0] == pytest.approx(10.0, rel=0.005)
    assert read[1] == pytest.approx(read[0], rel=0.005)


def test_a_large_clip_is_measured_in_a_cut(tmp_path, recipe, capsys, monkeypatch):
    times = [t / 30 for t in range(60)]

    def path(time: float) -> tuple[float, float]:
        return tossed(time - 0.5) if 0.5 < time < 1.4 else (-50.0, -50.0)

    clip = write_timed(tmp_path / "large.mp4", balls(times, path), times)
    options = (clip, "--recipe", recipe, "--fps", "30", "--px_per_m", "50")
    whole = scored(capsys, *options)
    monkeypatch.setattr(rewards.score.reading, "MEASURED_WHOLE", 500_000)
    monkeypatch.setattr(rewards.score.cutting, "_CUT", 800_000)
    monkeypatch.setattr(rewards.score.cutting, "_PIECE", 40)
    cut = scored(capsys, *options)
    assert any("the clip is large" in note for note in cut["notes"])
    assert cut["g_m_s2"] == pytest.approx(10.0, rel=0.01)
    assert cut["object_diameter_px"] == pytest.approx(whole["object_diameter_px"], rel=0.1)
    assert cut["px_per_m"] == pytest.approx(50, rel=1e-3)


@pytest.mark.parametrize("height", [100.0, 116.0])
def test_what_rolls_has_a_speed_and_a_reason_and_no_g(tmp_path, recipe, capsys, height):
    """At 116 px the border of the picture cuts the ball."""
    times = uneven_times(1.0)
    clip = write_timed(tmp_path / "rolls.mp4", balls(times, lambda time: (15 + 120 * time, height)), times)
    result = scored(capsys, clip, "--recipe", recipe, "--fps", "container", "--px_per_m", "50")
    assert result["g_m_s2"] is None
    assert "no free flight" in result["not_measurable"]["g_m_s2"]
    assert result["speed_px_s"] == pytest.approx(120, rel=0.02)
    assert result["speed_m_s"] == pytest.approx(2.4, rel=0.02)

"""The measuring benchmarks on one cell: exact instruments read g, intervals cover, and a stopped run goes on."""

import importlib
import math
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def test_exact_instruments_read_g_and_a_stopped_run_goes_on(benchmark, tmp_path, monkeypatch):
    grid = benchmark("measuring_grid")
    results, output = tmp_path / "readings.jsonl", tmp_path / "grid.md"
    command = ["grid", "--exact_only", "--fps", "16", "--sizes_px", "12", "--gravities", "9.81", "4"]
    monkeypatch.setattr(sys, "argv", [*command, "--results", str(results), "--output", str(output)])
    grid.main()
    whole = output.read_text()
    rows = [row for _, row in grid._known(results)]
    assert len(rows) == 18 and all(row["reason"] is None for row in rows)
    errors = sorted(abs(row["error"]) for row in rows)
    assert errors[9] < 0.005 and errors[-1] < 0.02
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join(lines[:7]) + lines[7][:40])
    grid.main()
    assert sorted(output.read_text().splitlines()) == sorted(whole.splitlines())
    assert len(results.read_text().splitlines()) == 7 + 11


def test_the_third_of_the_grid_holds_every_pair_of_pitch_and_kind_equally_often(benchmark):
    grid = benchmark("measuring_grid")
    third = grid.latin_third(grid.grid((8.0, 16.0, 24.0), (6.0,), (2.0, 4.0)))
    assert len(third) == 18
    pairs = [(cell.pitch_deg, cell.kind) for cell in third]
    assert {pairs.count(pair) for pair in pairs} == {2} and len(set(pairs)) == 9


def test_intervals_cover_in_a_cell(benchmark):
    intervals = benchmark("measuring_intervals")
    found = intervals.measure(24.0, 24.0, 9.81, draws=120, flow=True, seed=3)
    assert found.impossible == 0 and found.refused < 0.05
    assert 0.88 <= found.covered <= 1.0
    assert 0.9 < found.width < 2.0
    assert found.score < 2 * found.oracle_score


def test_a_cell_with_too_few_frames_is_refused(benchmark):
    scenes, grid = benchmark("measuring_scenes"), benchmark("measuring_grid")
    drawn = []
    for seed in range(40):
        one = scenes.draw(scenes.Cell(fps=8.0, g_m_s2=16.0, diameter_px=12.0, pitch_deg=0.0, kind="fall"), seed)
        if len(scenes.clean_range(one)[0]) < 5:
            drawn.append(one)
    assert len(drawn) > 5
    rows = grid.read(drawn[:6], grid.exactly)
    assert all("too few frames" in row["reason"] and row["error"] is None for row in rows)


def test_the_interval_score_by_hand(benchmark):
    intervals = benchmark("measuring_intervals")
    low, high = (intervals.np.array(x) for x in ([9.0, 10.0, 8.0], [11.0, 11.0, 9.0]))
    assert intervals.score(low, high, 9.5).tolist() == pytest.approx([2.0, 1.0 + 20.0, 1.0 + 20.0])
    assert math.isclose(intervals.score(low, high, 9.5)[0], 2.0)


def test_with_all_parts_true_the_estimators_read_as_exact_instruments(benchmark):
    grid = benchmark("measuring_grid")
    cell = grid.Cell(fps=16.0, g_m_s2=4.0, diameter_px=12.0, pitch_deg=15.0, kind="throw")
    drawn = [grid.drawn_clip(cell, 0, 1)]
    recipe = str(grid.ROOT / "configs" / "recipes" / "gravity.yaml")
    (estimated,) = grid.read(drawn, grid.by_recipe(recipe))
    (exact,) = grid.read(drawn, grid.by_recipe(recipe, grid.PARTS))
    assert 0.005 < abs(estimated["error"]) < 0.2
    assert abs(exact["error"]) < 0.003

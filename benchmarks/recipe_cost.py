"""What six rewards in one recipe cost beside the dearest of them alone, and the same six with seven gates.

    python benchmarks/recipe_cost.py
    python benchmarks/recipe_cost.py --grad

All are judged in turn on the same clips in one process with one thread; CPU seconds count, so that what runs beside
it does not. The estimators run once however many rewards ask. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.rows import LIGHT_COLUMNS, collate, load_split, reward_columns, to_video
from rewards.recipe.recipe import Recipe, load_recipe

SIX = ("gravity", "energy_drift", "projectile", "arc_residual", "rigidity", "flow_match")
GATES = "motion_gate", "continuity", "observability_gate", "sharpness", "saturation", "background", "registration"
HEAD = "instruments: {flow: embedded, depth: embedded, mask: segmenter, flow_updates: 4, autocast: true}\nrewards:\n"


def recipe_of(rewards: tuple[str, ...], folder: Path, gates: tuple[str, ...] = ()) -> Recipe:
    """A recipe of these rewards and gates, all with the same instruments."""
    path = folder / "recipe.yaml"
    lines = [f"  - {{name: {name}}}\n" for name in rewards]
    lines += ["gates:\n", *(f"  - {{name: {name}}}\n" for name in gates)] if gates else []
    path.write_text(HEAD + "".join(lines))
    return load_recipe(path)


def cpu_s(recipe: Recipe, video, columns, grad: bool) -> float:
    """CPU seconds of one judgement, and with `grad` of its gradient at the pixels."""
    start = time.process_time()
    if grad:
        leaf = video.frames_BTCHW.clone().requires_grad_()
        total_B = recipe.score(video.with_frames(leaf), columns, grad=True).total_B
        torch.autograd.grad(total_B.sum(), leaf)
    else:
        recipe.score(video, columns)
    return time.process_time() - start


def cost(clips: int, repeats: int, grad: bool) -> dict[str, object]:
    """Median CPU seconds of the six, of the six with gates and of each alone, in turn, and ratios to the dearest."""
    torch.set_num_threads(1)
    table = load_split("validation", columns=LIGHT_COLUMNS)
    batch = collate([table[n] for n in range(clips)])
    video, columns = to_video(batch), reward_columns(batch)
    with tempfile.TemporaryDirectory() as folder:
        recipes = {name: recipe_of((name,), Path(folder)) for name in SIX}
        recipes["six"] = recipe_of(SIX, Path(folder))
        recipes["six, gated"] = recipe_of(SIX, Path(folder), GATES)
    seconds: dict[str, list[float]] = {name: [] for name in recipes}
    for turn in range(repeats + 1):
        for name, recipe in recipes.items():
            spent = cpu_s(recipe, video, columns, grad)
            # The first turn warms up, and measures the reference clips, which are kept.
            if turn:
                seconds[name].append(spent)
    median = {name: statistics.median(turns) for name, turns in seconds.items()}
    dearest = max(SIX, key=lambda name: median[name])
    return {
        "cpu_s": {name: round(figure, 4) for name, figure in median.items()},
        "dearest": dearest,
        "ratio": round(median["six"] / median[dearest], 3),
        "ratio_gated": round(median["six, gated"] / median[dearest], 3),
        "clips": clips,
        "repeats": repeats,
        "grad": grad,
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2, help="clips judged at once")
    parser.add_argument("--repeats", type=int, default=5, help="turns after the first")
    parser.add_argument("--grad", action="store_true", help="with the gradient at the pixels")
    given = parser.parse_args()
    print(json.dumps(cost(given.clips, given.repeats, given.grad)))


if __name__ == "__main__":
    main()

"""Score clips: what a recipe's instruments read off any video file, as a table, JSON or a report.

    python -m rewards.score CLIP... --recipe R --fps F [--px_per_m S | --object_diameter_m D] [--camera FILE|DEGREES]

Exit status: 0 when every clip was read (what cannot be measured is said), 1 when some clip could not, 2 for a mistake
in the command.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from reward_physics.objects.finders import FINDERS
from reward_physics.observation import Observation
from rewards.recipe.file import read_recipe
from rewards.recipe.recipe import Recipe
from rewards.score.inputs import CameraFile, fps_of, frames_of, positive
from rewards.score.progress import Progress, measure_in_steps
from rewards.score.reading import Reading, read
from rewards.score.summary import summarise
from rewards.score.table import flat, shown, tables

_SHARED = ("camera_motions", "steady_frames_BTCHW", "found", "mask_BTHW", "image_track", "diameter_px_BT")


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="python -m rewards.score", description="Read g, energy and unit-free quantities off clips."
    )
    parse.add_argument("clips", nargs="+", metavar="CLIP", help="video files, or folders of frames")
    parse.add_argument("--recipe", required=True, help="YAML file: instruments and rewards")
    parse.add_argument("--fps", type=fps_of, help="frames a second of the capture, or `container` to believe the file")
    parse.add_argument("--px_per_m", type=positive, help="pixels a metre where the object moves")
    parse.add_argument("--object_diameter_m", type=positive, help="true diameter of the object, m")
    parse.add_argument(
        "--camera",
        type=CameraFile.read,
        help="vertical field of view in degrees of a level camera, or a YAML or JSON file: see docs/scoring.md",
    )
    parse.add_argument(
        "--mask",
        help="the object in the first frame: an image file, or left,top,right,bottom in px; several objects: an image "
        "of labels, or boxes with ; between them",
    )
    parse.add_argument("--frames", type=frames_of, metavar="FIRST:LAST", help="frames to read, both included")
    parse.add_argument("--stride", type=int, help="frames between the two images of a flow; default: the recipe's")
    parse.add_argument("--json", action="store_true", help="nothing but JSON on standard output")
    parse.add_argument("--disable_tqdm", action="store_true", help="no progress bar; there is none off a terminal")
    parse.add_argument("--report", metavar="DIR", help="folder for an HTML report")
    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parse = parser()
    options = parse.parse_args(arguments)
    if options.stride is not None and options.stride < 1:
        parse.error(f"argument --stride: must be >= 1, got {options.stride}")
    if options.report and Path(options.report).exists() and not Path(options.report).is_dir():
        parse.error(f"argument --report: {options.report} is a file: name a folder")
    try:
        recipe = _recipe_for(options)
    except ValueError as error:
        parse.error(" ".join(str(error).split()))
    console = Console(stderr=options.json)
    results, pages = [], []
    with Progress(len(options.clips), disabled=options.disable_tqdm) as progress:
        for path in options.clips:
            progress.begin(path)
            result, page = _score(path, options, recipe, progress)
            results.append(result)
            pages.append(page)
    if options.report:
        from rewards.score.page import write_report

        written = write_report(options.report, pages, recipe=f"Recipe: {options.recipe}")
        Console(stderr=True).print(f"report: {written}", soft_wrap=True, highlight=False)
    if options.json:
        print(json.dumps(results[0] if len(results) == 1 else results, indent=1, allow_nan=False))
    else:
        for result in results:
            console.print(*tables(result), sep="\n")
    bad = sum("error" in result for result in results)
    if bad:
        Console(stderr=True).print(f"{bad} of {len(results)} clips could not be read", highlight=False)
    return 1 if bad else 0


def _recipe_for(options: argparse.Namespace) -> Recipe:
    """The recipe with the instruments that fit what is known of the clips.

    A depth network speaks for the scenes it was trained on. Where the scale is given by hand, or no camera would let
    its depth say metres, it is not asked, and with it goes its mask: the object is then found by its motion.
    """
    config = read_recipe(options.recipe)
    known = options.px_per_m is not None or options.object_diameter_m is not None
    changes: dict[str, Any] = {} if options.stride is None else {"flow_stride": options.stride}
    if known or options.camera is None:
        finder = FINDERS[config.instruments.mask]
        by_first_mask_alone = finder.needs_first_mask and not finder.needs
        changes |= {"depth": None, "first_frame_distance": False, "floor_height_m": None}
        changes["mask"] = finder.name if options.mask is not None and by_first_mask_alone else "motion"
    config = config.model_copy(update={"instruments": config.instruments.model_copy(update=changes)})
    base = Path(options.recipe).resolve().parent
    return Recipe(config, config.instruments.build(base), base=base)


def _score(
    path: str, options: argparse.Namespace, recipe: Recipe, progress: Progress
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One clip as JSON and as a section of the report; what is wrong with it is its `error`."""
    try:
        return _measure(path, options, recipe, progress)
    except (ValueError, MemoryError, OSError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        failed = {"g_m_s2": None, "clip": path, "error": message}
        return failed, {"name": path, "error": message}


@torch.no_grad()
def _measure(
    path: str, options: argparse.Namespace, recipe: Recipe, progress: Progress
) -> tuple[dict[str, Any], dict[str, Any]]:
    by_motion = not recipe.instruments.finder.whole_picture
    reading = read(path, options, by_motion=by_motion, saying=progress.saying, tick=progress.tick)
    observation = recipe.observe(reading.video, grad=False)
    no_metres = observation.no_metres
    if no_metres is not None:
        no_metres += ": give --px_per_m, --object_diameter_m, or a --camera and a recipe with metric depth"
    seen = observation
    if no_metres is not None:
        # One pixel stands for one metre: ratios do not change, and nothing is reported in metres.
        in_pixels = dataclasses.replace(reading.video, camera=None, px_per_m_B=torch.ones(1))
        seen = recipe.observe(in_pixels, grad=False)
    measure_in_steps(seen, progress.saying)
    summary = summarise(seen, in_metres=no_metres is None, no_metres=no_metres, scale=reading.scale)
    if seen is not observation:
        observation.__dict__.update({name: seen.__dict__[name] for name in _SHARED if name in seen.__dict__})
    scores, refused = _judge(recipe, observation)
    result: dict[str, Any] = {
        **summary.numbers,
        "rewards": scores,
        "not_measurable": {**summary.missing, **refused},
        "notes": [*reading.notes, *_notes(seen, options, reading.clock.container_fps)],
        "clip": path,
        "fps": reading.clock.fps,
        "frames": list(reading.numbers),
    }
    objects = seen.objects if len(seen.objects) > 1 else []
    result |= (
        {"objects": [_object(n, body, no_metres, reading) for n, body in enumerate(objects, 1)]} if objects else {}
    )
    if not options.report:
        return result, {"name": path}
    page = _page(path, result, seen, summary.unit)
    page["objects"] = [
        _page(f"Object {n}", numbers, body, summary.unit)
        for n, (numbers, body) in enumerate(zip(result.get("objects", []), objects, strict=True), 1)
    ]
    return result, page


def _object(number: int, observation: Observation, no_metres: str | None, reading: Reading) -> dict[str, Any]:
    """One of several objects as JSON."""
    summary = summarise(observation, in_metres=no_metres is None, no_metres=no_metres, scale=reading.scale)
    shown = (observation.image_track.weight_BT[0] > 0.1).nonzero()[:, 0]
    first = int(shown[0]) if len(shown) else None
    place = None if first is None else observation.image_track.centroid_BT2[0, first].tolist()
    return {
        **summary.numbers,
        "object": number,
        "first_at_px": None if place is None else reading.in_clip_px(place),
        "first_in_frame": first,
        "not_measurable": summary.missing,
    }


def _judge(recipe: Recipe, observation: Observation) -> tuple[dict[str, float | None], dict[str, str]]:
    """The recipe's rewards, and why those that say nothing do not."""
    scores: dict[str, float | None] = {}
    refused: dict[str, str] = {}
    for term in recipe.terms:
        try:
            value = float(term(observation, {})[0])
        except (ValueError, TypeError) as error:
            scores[term.name], refused[f"rewards.{term.name}"] = None, " ".join(str(error).split())
            continue
        scores[term.name] = value if math.isfinite(value) else None
        if not math.isfinite(value):
            refused[f"rewards.{term.name}"] = "could not be measured"
    return scores, refused


def _notes(observation: Observation, options: argparse.Namespace, container_fps: float | None) -> list[str]:
    notes = []
    if observation.instruments.finder.steadies:
        moved = observation.camera_motions[0]
        if moved.kind != "static":
            notes.append(f"the camera moved by up to {moved.largest_px:.1f} px and was held still by a {moved.kind}")
    if options.fps == "container":
        notes.append(f"fps {container_fps:g} is the container's word: slow motion would be read as low g")
    if options.px_per_m is not None and options.camera is None:
        notes.append(
            "the camera is taken to look straight at the plane of the motion: give --camera where it is tilted"
        )
    return notes


def _page(name: str, result: dict[str, Any], seen: Observation, unit: str) -> dict[str, Any]:
    from rewards.score.page import draw_clip

    measured = bool(seen.fit.measurable_B[0])
    return {
        "name": name,
        "error": None,
        "rows": [(key, shown(value)) for key, value in flat(result)],
        "missing": result["not_measurable"],
        "notes": result.get("notes", []),
        "objects": [],
        "picture": draw_clip(seen, unit=unit, g=9.81 if unit == "m" else None) if measured else None,
    }


if __name__ == "__main__":
    sys.exit(main())

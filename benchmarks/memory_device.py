"""ORO steps of models of the published sizes on a GPU: the plan's peak against the measured one, and the time.

    python benchmarks/memory_device.py --output_dir outputs/memory_device
    python benchmarks/memory_device.py --rows wan_24gb hunyuan_80gb --output_dir outputs/memory_device

Each row is a shipped config. Its networks are built with random weights on the device itself, in bfloat16: nothing is
downloaded. Text encoders are left out, in the plan too; prompts have random features. Then `trainers.oro.train` runs,
with its reward, optimizer and files, on the shipped clips, one micro-batch a step. Where a row lowers the number of
denoising steps, the plan is that of the same number.

Every row has a process of its own, with no more of the device than the config's `memory_gib`. The processes import and
plan beside each other, and take the device by turns. Without a GPU the same code runs on the CPU under
`trainers.memory_plan.meter`; give small models of your own by `--config`. Results are written after every row.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import faulthandler
import json
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import torch

from trainers import oro
from trainers.clips.folder import write_text
from trainers.learning.clocks import Phases
from trainers.memory_plan.meter import MemoryMeter, cpu_workspace
from trainers.memory_plan.plan import GIB, Plan, build, plan_memory
from trainers.models.sizes import Size, find_size
from trainers.settings.options import parse_config
from trainers.settings.oro import OROConfig

ROOT = Path(__file__).resolve().parents[1]
ROWS: dict[str, dict[str, Any]] = {
    "ltx_24gb": {},
    "wan_24gb": {},
    "cogvideox_24gb": {},
    "wan_80gb": {"num_inference_steps": 4},
    "hunyuan_80gb": {"num_inference_steps": 4},
    "ltx_24gb_short": {"num_inference_steps": 4, "max_steps": 3},
    "ltx_24gb_compiled": {"num_inference_steps": 4, "max_steps": 3, "torch_compile": True},
    "cogvideox_80gb": {"num_inference_steps": 2},
    "hunyuan_24gb": {"num_inference_steps": 2, "max_steps": 1},
    "ltx_80gb": {},
}
"""What each row changes in configs/oro_FAMILY_DEVICE.yaml, the dearest last."""

PHASES = {
    "sample": ("rollout",),
    "decode": ("decode",),
    "regularisers": ("reference distance", "denoising"),
    "backward": ("backward",),
}
"""The trainer's phases, and what the plan calls them.

What the decoder keeps for its backward pass is part of other phases too.
"""


class Peaks:
    """The most that was alive in each of the trainer's phases, in bytes."""

    def __init__(self, take_peak: Callable[[], int]) -> None:
        self.take_peak, self.phases, self._within = take_peak, {}, ["between"]

    def note(self) -> None:
        name = self._within[-1]
        self.phases[name] = max(self.phases.get(name, 0), self.take_peak())

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, every phase of a trainer is noted."""
        clock = Phases.__call__

        @contextlib.contextmanager
        def phase(phases: Phases, name: str) -> Iterator[None]:
            self.note()
            self._within.append(name)
            try:
                with clock(phases, name):
                    yield
            finally:
                self.note()
                self._within.pop()

        with patch.object(Phases, "__call__", phase):
            try:
                yield
            finally:
                self.note()


class DeviceMeter:
    """The CUDA allocator's own peaks, in bytes."""

    reserved = 0

    def take_peak(self) -> int:
        """The most that was handed out since the last call."""
        peak = torch.cuda.max_memory_allocated()
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())
        torch.cuda.reset_peak_memory_stats()
        return peak


def config_of(row: str, file: Path | None, changes: dict[str, Any], folder: Path) -> OROConfig:
    """The row's settings, for a few steps of one micro-batch on the shipped clips."""
    family, device = row.split("_")[:2] if file is None else ("", "")
    path = file or ROOT / "configs" / f"oro_{family}_{device}.yaml"
    config = parse_config(OROConfig, ["--config", str(path)])
    run: dict[str, Any] = {
        "dataset": "drops",
        "recipe": str(ROOT / config.recipe),
        "output_dir": str(folder / "run"),
        "overwrite_output_dir": True,
        "gradient_accumulation_steps": 1,
        "max_steps": 2,
        "save_steps": 0,
        "eval_steps": 0,
        "report_to": ["none"],
        "disable_tqdm": True,
    }
    return dataclasses.replace(config, **(run | changes))


def model_of(size: Size, config: OROConfig, device: str) -> Any:
    """The adapter over random weights on the device, or waiting beside it where the config says so."""
    torch.manual_seed(config.seed)
    model = build(size, torch.bfloat16 if config.bf16 else torch.float32, device)
    model.offload_text, model.offload_blocks = config.offload_text_encoder, config.offload_transformer
    if config.offload_transformer:
        model.pipeline.transformer.to("cpu")
    model = model.to(device)
    length, width = model.text_shape
    pooled_width = model.pipeline.transformer.config.get("pooled_projection_dim")

    def encode(texts: list[str]) -> tuple[torch.Tensor, ...]:
        generators = [torch.Generator().manual_seed(zlib.crc32(text.encode())) for text in texts]
        shapes = [(length, width)] + ([(pooled_width,)] if pooled_width else [])
        features, *pooled = (
            torch.stack([torch.randn(shape, generator=generator) for generator in generators]) for shape in shapes
        )
        where: dict[str, Any] = {"device": model.device, "dtype": model.dtype}
        mask_BL = torch.ones(features.shape[:2], dtype=torch.bool, device=model.device)
        return features.to(**where), mask_BL, *(vector.to(**where) for vector in pooled)

    model.encode_prompt = encode
    return model


def measured(size: Size, config: OROConfig) -> dict[str, Any]:
    """Peaks in bytes by phase, seconds of each step and their figures."""
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    started = time.perf_counter()
    if on_gpu and config.memory_gib:
        there = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, config.memory_gib * GIB / there))
    model = model_of(size, config, device)
    before = 0
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        parts = (model.pipeline.transformer, model.vae)
        before = sum(parameter.numel() * parameter.element_size() for part in parts for parameter in part.parameters())
    built_s = time.perf_counter() - started
    meter, allocator = MemoryMeter(cpu_workspace), DeviceMeter()
    peaks = Peaks(allocator.take_peak if on_gpu else lambda: before + meter.take_peak())
    failure: dict[str, str] = {}
    try:
        with peaks.watching(), contextlib.nullcontext() if on_gpu else meter:
            oro.train(config, model=model)
    except Exception as error:  # what was measured until then is reported all the same
        traceback.print_exc()
        failure = {"error": told(error)}
    file = Path(config.output_dir) / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    last = lines[-1] if lines else {}
    kept = ("reward", "measurable", "grad_norm", "reference_distance", "memory_gb")
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "built_s": round(built_s, 1),
        "seconds": [round(line["seconds"], 2) for line in lines],
        "seconds_by_phase": {key[8:]: round(v, 2) for key, v in last.items() if key.startswith("seconds/")},
        "figures": [{key: line[key] for key in kept if key in line} for line in lines],
        "peaks": peaks.phases,
        "allocated": max(peaks.phases.values()),
        "reserved": allocator.reserved,
        **failure,
    }


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def planned(size: Size, config: OROConfig) -> dict[str, Any]:
    plan: Plan = plan_memory(size, config, oro.STEP, workspace=None if torch.cuda.is_available() else cpu_workspace)
    phases = {name: bytes_ for name, bytes_ in plan.phases.items() if not name.startswith("prompts")}
    held = sum(plan.held.values())
    return {
        "held": plan.held,
        "peaks": {name: held + bytes_ for name, bytes_ in phases.items()},
        "weights": plan.weights,
    }


def run_row(row: str, file: Path | None, changes: dict[str, Any], folder: Path) -> None:
    """One row in this process: plan, wait for a line on stdin with the seconds that it may take, and measure."""
    diffusers.utils.logging.set_verbosity_error()
    result: dict[str, Any] = {"row": row, "changes": changes}
    try:
        config = config_of(row, file, changes, folder)
        size = dataclasses.replace(find_size(config.model_name_or_path), text_weights=0)
        clip = f"{config.num_frames} x {config.height} x {config.width}"
        result |= {"model": config.model_name_or_path, "clip": clip, "memory_gib": config.memory_gib}
        result["steps"] = config.num_inference_steps
        result["planned"] = planned(size, config)
        write_text(folder / "result.json", json.dumps(result))
        line = sys.stdin.readline()
        if not line:
            return
        faulthandler.dump_traceback_later(float(line), exit=True)
        result["measured"] = measured(size, config)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        result["error"] = told(error)
    faulthandler.cancel_dump_traceback_later()
    write_text(folder / "result.json", json.dumps(result))


def gib(value: float | None) -> str:
    return "" if value is None else f"{value / GIB:.2f}"


def error_of(planned: float | None, measured: float | None) -> str:
    return f"{planned / measured - 1:+.0%}" if planned and measured else ""


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: the rows, and their phases."""
    rows = [
        "| config | clip | denoising steps | weights and LoRA (GiB) | planned peak | measured | error | reserved "
        "| seconds a step | said |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    phases = ["| config | phase | planned (GiB) | measured | error |", "|---|---|---|---|---|"]
    for result in results:
        plans, figures = result.get("planned", {}), result.get("measured", {})
        peaks, alive = plans.get("peaks", {}), figures.get("peaks", {})
        peak = max(peaks.values(), default=None)
        error = result.get("error", figures.get("error", ""))
        cells = [result["row"], result.get("clip", ""), str(result.get("steps", ""))]
        cells += [gib(sum(plans["held"].values()) if plans else None), gib(peak), gib(figures.get("allocated"))]
        cells += [error_of(peak, figures.get("allocated")), gib(figures.get("reserved"))]
        rows.append("| " + " | ".join([*cells, ", ".join(map(str, figures.get("seconds", []))), error]) + " |")
        for name, bytes_ in alive.items():
            known = max((peaks[key] for key in PHASES.get(name, ()) if key in peaks), default=None)
            phases.append(f"| {result['row']} | {name} | {gib(known)} | {gib(bytes_)} | {error_of(known, bytes_)} |")
    return "\n".join([*rows, "", *phases, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), help="which, in this order")
    parser.add_argument("--config", nargs="*", type=Path, default=[], help="YAML files of your own, after the rows")
    parser.add_argument("--changes", type=json.loads, default={}, help="JSON of settings that every row takes")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for results.json, results.md and logs")
    parser.add_argument("--budget_s", type=float, default=190.0, help="no row begins after so many seconds")
    parser.add_argument("--row_s", type=float, default=75.0, help="a row that takes longer is ended")
    parser.add_argument("--ahead", type=int, default=10, help="processes that may plan beside the one that measures")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    names = [*asked.rows, *(str(path) for path in asked.config)]
    if asked.one:
        file = Path(asked.one) if asked.one not in ROWS else None
        run_row(asked.one, file, ROWS.get(asked.one, {}) | asked.changes, asked.output_dir)
        return
    began = time.monotonic()
    results: list[dict[str, Any]] = []
    waiting: list[tuple[str, Path, subprocess.Popen[str]]] = []
    with contextlib.ExitStack() as stack:

        def start(name: str) -> None:
            folder = asked.output_dir / Path(name).stem
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "result.json").unlink(missing_ok=True)
            log = stack.enter_context((folder / "log.txt").open("w"))
            command = [sys.executable, __file__, "--one", name, "--output_dir", str(folder)]
            command += ["--changes", json.dumps(asked.changes)]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, cwd=ROOT)
            stack.callback(child.kill)
            waiting.append((name, folder, child))

        left = list(names)
        while left or waiting:
            while left and len(waiting) <= asked.ahead:
                start(left.pop(0))
            name, folder, child = waiting.pop(0)
            results.append(turn(name, folder, child, began + asked.budget_s - time.monotonic(), asked.row_s))
            write_text(asked.output_dir / "results.json", json.dumps(results, indent=1))
            write_text(asked.output_dir / "results.md", table(results))
            print(f"{time.monotonic() - began:.0f} s: {table(results[-1:])}", flush=True)


def turn(name: str, folder: Path, child: subprocess.Popen[str], left_s: float, row_s: float) -> dict[str, Any]:
    """A row's turn on the device; what came of it."""
    path = folder / "result.json"
    if left_s > 5:
        seconds = min(row_s, left_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(f"{seconds}\n", timeout=left_s + 30)
    child.kill()
    child.wait()
    result = json.loads(path.read_text()) if path.is_file() else {"row": name}
    if "measured" not in result and "error" not in result:
        tail = " ".join((folder / "log.txt").read_text().split()[-40:])
        result["error"] = "no time was left" if left_s <= 5 else f"ended after {min(row_s, left_s):.0f} s: ...{tail}"
    return result


if __name__ == "__main__":
    main()

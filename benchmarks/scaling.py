"""How many clips a second several processes make, as a ratio to one; and what a cost model expects of many GPUs.

    python benchmarks/scaling.py                       # 1 and 2 processes with one thread each, on the embedded model
    python benchmarks/scaling.py --steps 4 --batch_size 1 --output /tmp/scaling.md
    python benchmarks/scaling.py --project             # the cost model alone

It trains by configs/oro_demo.yaml for some steps with each number of processes, compares the medians, and writes a
table with the projection below it. The projection adds to the seconds of one GPU's step what G GPUs send and wait for:

    T(G) = t (1 + cv sqrt(2 ln G)) + V(G) / bandwidth + messages latency log2 G

    plain, ZeRO-1, ZeRO-2    V = 2 (G - 1) / G * 4 bytes * LoRA          one all-reduce (or reduce-scatter, all-gather)
    ZeRO-3                   V += (G - 1) / G * 2 bytes * base * passes  every pass gathers the frozen weights

with `passes` = 3 a denoising step under full gradient (forward, its re-evaluation in backward, backward) and cv the
relative spread of the work of a step from process to process, measured where several processes ran, whose largest of G
is waited for. Nothing is overlapped, so this is an upper bound; bandwidth is what one GPU sends and receives at once.

t is `--step_seconds` (`seconds` less `seconds/wait` in metrics.jsonl of a run on one GPU), or without it an estimate
for Wan 2.2 A14B: F floating-point operations of a forward for L tokens, P weights, depth n and width d,

    F = 2 P L + 4 n d L^2,      t = clips * denoising steps * 4 F / (utilisation * peak)

four forwards' worth a step with gradient: forward, again in backward, and a backward of two.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 2


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a number of processes did.

    Args:
        clips_a_second: of all of them, by the median step.
        seconds: of the median step, and of its phases by name.
        spread: relative standard deviation of the work of a step from process to process; 0 for one.
    """

    clips_a_second: float
    seconds: dict[str, float]
    spread: float


def wan_step_seconds(
    *,
    weights: float = 14.3e9,
    frames: int = 81,
    height: int = 480,
    width: int = 832,
    layers: int = 40,
    dim: int = 5120,
    denoising_steps: int = 8,
    clips: int = 1,
    peak_flops: float = 989e12,
    utilisation: float = 0.4,
) -> float:
    """t of this file's docstring: a latent is 4 frames by 8 x 8 px, a token 2 x 2 latents."""
    tokens = ((frames - 1) // 4 + 1) * (height // 16) * (width // 16)
    forward = 2 * weights * tokens + 4 * layers * dim * tokens**2
    return clips * denoising_steps * 4 * forward / (utilisation * peak_flops)


def step_seconds(
    *,
    compute_s: float,
    gpus: int,
    lora_parameters: float,
    base_parameters: float,
    zero: int,
    denoising_steps: int,
    bandwidth_gb_s: float,
    latency_s: float = 2e-5,
    spread: float = 0.02,
    layers: int = 40,
) -> float:
    """T(G) of this file's docstring, seconds."""
    passes = 3 * denoising_steps if zero == 3 else 0
    share = (gpus - 1) / gpus
    volume_bytes = 2 * share * 4 * lora_parameters + share * 2 * base_parameters * passes
    messages = 1 + passes * layers
    waits = compute_s * spread * math.sqrt(2 * math.log(gpus)) if gpus > 1 else 0.0
    sends = messages * latency_s * math.log2(gpus) + volume_bytes / (bandwidth_gb_s * 1e9)
    return compute_s + waits + (sends if gpus > 1 else 0.0)


def project(options: argparse.Namespace, spread: float) -> str:
    """A table of efficiency over GPUs and ZeRO stages, with what it assumes."""
    compute_s = options.step_seconds or wan_step_seconds(
        weights=options.base_parameters, denoising_steps=options.denoising_steps
    )
    source = "given" if options.step_seconds else "estimated: 81 frames of 480 x 832 px, 40 % of an H100's 989 TFLOP/s"
    lines = [
        f"Assumed: {compute_s:.0f} s a step of one clip on one GPU ({source}), {options.denoising_steps} denoising "
        f"steps with gradient, {options.base_parameters / 1e9:.1f}e9 frozen weights in bfloat16, "
        f"{options.lora_parameters / 1e6:.0f}e6 LoRA weights in float32, {options.bandwidth_gb_s:g} GB/s a GPU, 20 us "
        f"a message, a spread of {spread:.1%} between processes, nothing overlapped.",
        "",
        "| GPUs | plain, ZeRO-1 or 2: s a step | efficiency | ZeRO-3: s a step | efficiency |",
        "|---|" + "---|" * 4,
    ]
    for gpus in options.gpus:
        cells = []
        for zero in (2, 3):
            seconds = step_seconds(
                compute_s=compute_s,
                gpus=gpus,
                lora_parameters=options.lora_parameters,
                base_parameters=options.base_parameters,
                zero=zero,
                denoising_steps=options.denoising_steps,
                bandwidth_gb_s=options.bandwidth_gb_s,
                spread=spread,
            )
            cells += [f"{seconds:.1f}", f"{compute_s / seconds:.0%}"]
        lines.append(f"| {gpus} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measure(processes: int, options: argparse.Namespace, folder: Path) -> Found:
    """A short training with a number of processes."""
    launch = ROOT / "configs" / "accelerate" / ("one_process.yaml" if processes == 1 else "multi_gpu.yaml")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch)]
    command += ["--num_processes", str(processes), "--main_process_port", str(port), "trainers/oro.py"]
    command += ["--config", "configs/oro_demo.yaml", "--max_steps", str(options.steps), "--num_threads", "1"]
    command += ["--per_device_train_batch_size", str(options.batch_size), "--report_to", "none", "--eval_steps", "0"]
    command += ["--output_dir", str(folder), "--disable_tqdm", "true", "--seed", str(options.seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    figures, held = (
        [json.loads(line) for line in (folder / name).read_text().splitlines()][WARM_UP:]
        for name in ("metrics.jsonl", "processes.jsonl")
    )
    names = [name for name in figures[0] if name.startswith("seconds")]
    seconds = {name: statistics.median(line[name] for line in figures) for name in names}
    spreads = [statistics.pstdev(line["seconds"]) / statistics.fmean(line["seconds"]) for line in held]
    clips_a_second = processes * options.batch_size / seconds["seconds"]
    return Found(clips_a_second=clips_a_second, seconds=seconds, spread=statistics.median(spreads))


def table(runs: dict[int, Found]) -> str:
    """Clips a second of each number of processes, and where a step's seconds go."""
    first = next(iter(runs.values()))
    phases = [name for name in first.seconds if "/" in name]
    head = ["processes", "clips a second, ratio", *(name.removeprefix("seconds/") for name in phases)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for count, run in runs.items():
        shares = [f"{run.seconds.get(name, 0.0) / run.seconds['seconds']:.0%}" for name in phases]
        lines.append(f"| {count} | {run.clips_a_second / first.clips_a_second:.2f} | " + " | ".join(shares) + " |")
    return "\n".join(lines)


def report(runs: dict[int, Found], options: argparse.Namespace) -> str:
    """The file that is written."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    how = f"`python benchmarks/scaling.py {' '.join(sys.argv[1:])}`".replace(" `", "`")
    made = f"{how}, commit {commit.stdout.strip() or 'unknown'}, seed {options.seed}."
    spread = max((run.spread for run in runs.values()), default=0.0) or options.spread
    if not runs:
        return f"# Projection\n\n{made}\n\n{project(options, spread)}\n"
    which = f"{options.steps - WARM_UP} steps of {options.batch_size} clips a process, one thread each"
    return f"# Scaling\n\n{made}\n{which}.\n\n{table(runs)}\n\n## Projection\n\n{project(options, spread)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes, the first the reference")
    add("--steps", type=int, default=12, help="training steps with each (default: %(default)s)")
    add("--batch_size", type=int, default=4, help="clips a process and step (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the training (default: %(default)s)")
    add("--output", help="markdown file to write; printed in any case")
    add("--project", action="store_true", help="the cost model without a measurement")
    add(
        "--step_seconds", type=float, help="measured seconds of a step on one GPU; without them an estimate for Wan 2.2"
    )
    add("--gpus", type=int, nargs="+", default=[1, 8, 64, 512], help="numbers of GPUs to expect something of")
    add("--lora_parameters", type=float, default=80e6, help="weights of the LoRA (default: %(default)g)")
    add("--base_parameters", type=float, default=14.3e9, help="weights of the transformer (default: %(default)g)")
    add("--denoising_steps", type=int, default=8, help="steps of a rollout with gradient (default: %(default)s)")
    add("--bandwidth_gb_s", type=float, default=25.0, help="GB/s that one GPU sends (default: %(default)s)")
    add(
        "--spread",
        type=float,
        default=0.02,
        help="spread of a step's work where none is measured (default: %(default)s)",
    )
    options = parser.parse_args()
    if options.steps <= WARM_UP:
        parser.error(f"--steps must be more than the {WARM_UP} that are left out, got {options.steps}")
    runs = {}
    if not options.project:
        with tempfile.TemporaryDirectory() as scratch:
            runs = {count: measure(count, options, Path(scratch) / str(count)) for count in options.processes}
    text = report(runs, options)
    print(text, end="")
    if options.output:
        Path(options.output).write_text(text)


if __name__ == "__main__":
    main()

"""How many clips a second several processes make, as a ratio to one; and what a cost model expects of many GPUs.

    python benchmarks/scaling.py                       # 1 and 2 processes with one thread each, on the embedded model
    python benchmarks/scaling.py --project --step_seconds 60 --base_parameters 14.3e9 --lora_parameters 80e6

The first trains by configs/oro_demo.yaml for some steps with each number of processes and compares the medians. The
second measures nothing. It adds to the seconds of one process's step, which the user has measured (`seconds` less
`seconds/wait` in metrics.jsonl of a run on one GPU), what G GPUs must send and wait for:

    T(G) = t (1 + cv sqrt(2 ln G)) + V(G) / bandwidth + messages latency log2 G

    plain, ZeRO-1, ZeRO-2    V = 2 (G - 1) / G * 4 bytes * LoRA          one all-reduce (or reduce-scatter, all-gather)
    ZeRO-3                   V += (G - 1) / G * 2 bytes * base * passes  every pass gathers the frozen weights

with `passes` = 3 a denoising step under full gradient (forward, its re-evaluation in backward, backward) and cv the
relative spread of a step's time from process to process, whose largest of G is waited for. Assumptions: nothing is
overlapped, so this is an upper bound; bandwidth is what one GPU sends and receives at once.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 2


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


def project(options: argparse.Namespace) -> str:
    """A table of efficiency over GPUs and ZeRO stages."""
    lines = ["| GPUs | " + " | ".join(f"{name} s a step | efficiency" for name in ("plain or ZeRO-2", "ZeRO-3")) + " |"]
    lines.append("|" + "---|" * 5)
    for gpus in options.gpus:
        cells = []
        for zero in (2, 3):
            seconds = step_seconds(
                compute_s=options.step_seconds,
                gpus=gpus,
                lora_parameters=options.lora_parameters,
                base_parameters=options.base_parameters,
                zero=zero,
                denoising_steps=options.denoising_steps,
                bandwidth_gb_s=options.bandwidth_gb_s,
                spread=options.spread,
            )
            cells += [f"{seconds:.1f}", f"{options.step_seconds / seconds:.0%}"]
        lines.append(f"| {gpus} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measure(processes: int, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Clips a second and the median seconds of each phase of a short training."""
    launch = ROOT / "configs" / "accelerate" / ("one_process.yaml" if processes == 1 else "multi_gpu.yaml")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch)]
    command += ["--num_processes", str(processes), "--main_process_port", str(port), "trainers/oro.py"]
    command += ["--config", "configs/oro_demo.yaml", "--max_steps", str(options.steps), "--num_threads", "1"]
    command += ["--per_device_train_batch_size", str(options.batch_size), "--report_to", "none"]
    command += ["--output_dir", str(folder), "--disable_tqdm", "true"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][WARM_UP:]
    median = {name: statistics.median(line[name] for line in lines) for name in lines[0] if name.startswith("seconds")}
    return median | {"clips_a_second": processes * options.batch_size / median["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes, the first the reference")
    add("--steps", type=int, default=12, help="training steps with each (default: %(default)s)")
    add("--batch_size", type=int, default=4, help="clips a process and step (default: %(default)s)")
    add("--project", action="store_true", help="the cost model instead of a measurement")
    add("--step_seconds", type=float, default=60.0, help="measured seconds of a step on one GPU (default: %(default)s)")
    add("--gpus", type=int, nargs="+", default=[1, 8, 64, 512], help="numbers of GPUs to expect something of")
    add("--lora_parameters", type=float, default=80e6, help="weights of the LoRA (default: %(default)g)")
    add("--base_parameters", type=float, default=14.3e9, help="weights of the transformer (default: %(default)g)")
    add("--denoising_steps", type=int, default=8, help="steps of a rollout with gradient (default: %(default)s)")
    add("--bandwidth_gb_s", type=float, default=25.0, help="GB/s that one GPU sends (default: %(default)s)")
    add("--spread", type=float, default=0.02, help="relative spread of a step's time (default: %(default)s)")
    options = parser.parse_args()
    if options.project:
        print(project(options))
        return
    if options.steps <= WARM_UP:
        parser.error(f"--steps must be more than the {WARM_UP} that are left out, got {options.steps}")
    with tempfile.TemporaryDirectory() as scratch:
        found = {count: measure(count, options, Path(scratch) / str(count)) for count in options.processes}
    first = found[options.processes[0]]["clips_a_second"]
    for count, figures in found.items():
        parts = ", ".join(f"{name.removeprefix('seconds/')} {value / figures['seconds']:.0%}" for name, value in
                          figures.items() if "/" in name)  # fmt: skip
        print(
            f"{count} processes: {figures['clips_a_second'] / first:.2f} times the clips a second; of a step: {parts}"
        )


if __name__ == "__main__":
    main()

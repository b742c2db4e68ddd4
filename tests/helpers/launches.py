"""Trainings of tests/distributed/ranks.py through real `accelerate launch`, or in this process alone."""

import contextlib
import io
import json
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "distributed" / "ranks.py"
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}

COMMON = {
    "num_inference_steps": 2,
    "per_device_train_batch_size": 2,
    "lora_r": 4,
    "max_steps": 4,
    "learning_rate": 1e-2,
    "adam_epsilon": 1e-3,  # with the default Adam makes steps of full size of the smallest differences in the gradient
    "save_steps": 2,
    "report_to": ["none"],
    "disable_tqdm": True,
}
UNLIMITED = {"max_pixel_grad_ratio": 1e9}  # the median that limits is that of a micro-batch
OWN = {
    "oro": {"reference_weight": 0.1, "ema_decay": 0.5, "denoising_weight": 0.1} | UNLIMITED,
    "rwr": {"num_generations": 4, "prompts_per_round": 2, "inner_steps": 2, "sampling_batch_size": 2}
    | {"temperature": 0.01, "reference_weight": 0.1, "absolute_scale": 0.0},
    "psft": {"physics_weight": 0.1} | UNLIMITED,
}
"""Settings of each trainer."""


def experiment(world, name, trainer, *, fault=None, folder=None, **changes):
    """A training of ranks.py that starts from the world's LoRA, where there is one."""
    settings = COMMON | OWN[trainer] | {"model_name_or_path": str(world / "model"), "dataset": str(world / "clips")}
    settings |= {"output_dir": str(world / (folder or name))}
    if (world / "lora" / "pytorch_lora_weights.safetensors").exists():
        settings["lora_path"] = str(world / "lora")
    return {"name": name, "trainer": trainer, "settings": settings | changes, "fault": fault}


def alone(world, experiments):
    """Results of this process, by name."""
    path = world / "plan.json"
    path.write_text(json.dumps(experiments))
    with contextlib.redirect_stdout(io.StringIO()) as output:
        runpy.run_path(str(SCRIPT))["main"](str(path))
    return {result["name"]: result for result in results(output.getvalue())}


def command(world, experiments, zero=0):
    """A launch of two processes as the README says. Without a GPU the trainer asks for gloo."""
    path = world / f"plan_{experiments[0]['name']}.json"
    path.write_text(json.dumps(experiments))
    config = ROOT / "configs" / "accelerate" / (f"zero{zero}.yaml" if zero else "multi_gpu.yaml")
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", "2"]
    return [*line, "--main_process_port", str(free_port()), str(SCRIPT), str(path)]


def launch(world, experiments, zero=0):
    """Results by name and process, and what both processes printed."""
    line = command(world, experiments, zero)
    process = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, env=ALONE)
    assert process.returncode == 0, process.stdout[-3000:]
    outcomes = {}
    for result in results(process.stdout):
        outcomes.setdefault(result["name"], {})[result["rank"]] = result
    return outcomes, process.stdout


def free_port():
    """A port that nobody listens to now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def results(output):
    """Every printed result: two processes may write on one line, but no write is cut."""
    return [json.loads(text) for text in re.findall(r"RESULT(\{.*?\})", output)]

"""A run that is killed at any moment, in the write of a checkpoint too, goes on and ends with the same weights.

KILLS=30 pytest tests/trainers/run/test_killed.py -m slow      # as before a release; by default 3

Of all kills a third fall on either of two processes. Half of them come from outside at a random moment; half are a
process's own, at a random event of the file system while it writes a checkpoint.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainers.run.checkpoint import MANIFEST, _sha256, checkpoints, read_manifest

ROOT = Path(__file__).resolve().parents[3]
KILLS = int(os.environ.get("KILLS", "3"))

PROGRAM = """
import os, signal, sys, types, torch
from trainers import oro
from trainers.run import checkpoint
from trainers.settings.oro import OROConfig

RANK, writing, seen = os.environ.get("RANK", "0"), False, 0

class Loud:
    def score(self, video, columns, grad):
        sys.stdout.write(f"scored {RANK} {os.getpid()}\\\\n")
        sys.stdout.flush()
        with torch.set_grad_enabled(grad):
            total_B = video.frames_BTCHW.mean(dim=(1, 2, 3, 4))
        ones_B = torch.ones(video.batch_size)
        return types.SimpleNamespace(
            total_B=total_B, terms={}, measurable_B=ones_B, reasons=[None] * len(ones_B), observation=None
        )

honest = checkpoint.save_checkpoint
def save(*arguments, **named):
    global writing
    writing = True
    made = honest(*arguments, **named)
    writing = False
    return made
checkpoint.save_checkpoint = save

def count(event, _):
    global seen
    if writing and event.startswith(("open", "os.", "shutil.")):
        seen += 1
        if seen == int(os.environ["KILL_AT_EVENT"]):
            os.kill(os.getpid(), signal.SIGKILL)
if "KILL_AT_EVENT" in os.environ and RANK == "0":
    sys.addaudithook(count)

model, clips, output, steps = sys.argv[1:]
config = OROConfig(
    model_name_or_path=model, dataset=clips, output_dir=output, max_steps=int(steps), num_inference_steps=2,
    per_device_train_batch_size=1, lora_r=4, learning_rate=1e-2, ema_decay=0.5, save_steps=1, num_threads=1,
    report_to=["none"], disable_tqdm=True, resume_from_checkpoint="auto",
)
oro.train(config, recipe=Loud())
"""


class Run:
    """The same training, started again and again.

    Args:
        folder: of the program and the output.
    """

    def __init__(self, world, folder, processes, steps):
        folder.mkdir()
        (folder / "program.py").write_text(PROGRAM.replace("\\\\n", "\\n"))
        self.output, self.processes = folder / "run", processes
        self.arguments = [str(folder / "program.py"), str(world / "model"), str(world / "clips")]
        self.arguments += [str(self.output), str(steps)]

    def start(self, kill_at_event=None):
        launch = [sys.executable]
        if self.processes > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            launch += ["-m", "accelerate.commands.launch", "--num_processes", str(self.processes)]
            launch += ["--config_file", str(ROOT / "configs" / "accelerate" / "multi_gpu.yaml")]
            launch += ["--main_process_port", str(port)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment |= {} if kill_at_event is None else {"KILL_AT_EVENT": str(kill_at_event)}
        environment["PYTHONPATH"] = str(ROOT)
        return subprocess.Popen(
            [*launch, *self.arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )

    def finish(self):
        process = self.start()
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said[-2000:]

    def kill_from_outside(self, rank, judgements, seconds):
        """Kill one process some time after its n-th judgement; the first is the check before the run."""
        process, found = self.start(), []
        for line in process.stdout:
            found += re.findall(rf"scored {rank} (\d+)", line)
            if len(found) >= judgements:
                break
        time.sleep(seconds)
        os.kill(int(found[-1]), signal.SIGKILL)
        killed = time.monotonic()
        self.all_end(process)
        assert time.monotonic() - killed < 60

    def kill_at_event(self, event):
        """Let process 0 kill itself at the n-th event of the file system within its saves."""
        self.all_end(self.start(event))

    def all_end(self, process):
        """Wait until the launcher has ended the other processes."""
        said, _ = process.communicate(timeout=600)
        assert process.returncode != 0, said[-2000:]
        if self.processes > 1 and "SIGKILL" not in said:
            raise AssertionError(said[-2000:])


@pytest.mark.slow
@pytest.mark.timeout(300 + 120 * KILLS)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_again_and_again_ends_like_one_in_peace(toy_world, tmp_path, processes):
    kills = KILLS // 3 if processes == 2 else KILLS - KILLS // 3
    steps, chance, left = 6 * kills, random.Random(processes), 0
    whole, killed = (Run(toy_world, tmp_path / name, processes, steps) for name in ("whole", "killed"))
    whole.finish()
    for number in range(kills):
        if number % 2:
            killed.kill_at_event(chance.randint(1, 40))
        else:
            killed.kill_from_outside(chance.randrange(processes), chance.randint(2, 4), chance.uniform(0, 0.25))
        left += any(killed.output.glob(".writing-*")) or any(killed.output.glob(".removing-*"))
        for folder in killed.output.glob("checkpoint-*"):  # what has a checkpoint's name is whole
            manifest = read_manifest(folder)["sha256"]
            assert all(_sha256(folder / name) == expected for name, expected in manifest.items())
            files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
            assert files == {*manifest, MANIFEST}
        print(f"kill {number + 1} of {kills}: {[path.name for path in checkpoints(killed.output)]}", flush=True)
    print(f"{left} of {kills} fell into the write of a checkpoint", flush=True)
    killed.finish()
    expected, actual = (load_file(run.output / "pytorch_lora_weights.safetensors") for run in (whole, killed))
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    last = [json.loads(line)["step"] for line in (killed.output / "metrics.jsonl").read_text().splitlines()]
    assert last == list(range(1, steps + 1))
    assert not list(killed.output.glob(".*ing-*"))

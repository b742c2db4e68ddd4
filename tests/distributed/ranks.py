"""Trains toys in one of several processes: ranks.py PLAN, a JSON list of experiments, one after another.

    {"name": "oro", "trainer": "oro", "settings": {"max_steps": 2, ...}, "fault": "raise"}

After each, every process prints a line RESULT{...} with the hash of its weights after every step, and process 0 leaves
the gradients of every step, averaged over the processes and not yet clipped, in OUTPUT_DIR.gradients.pt. A fault is
what the reward of the last process does in step 2.
"""

import contextlib
import copy
import datetime
import errno
import hashlib
import json
import os
import signal
import sys
import time
import types
from pathlib import Path

import torch
from accelerate import Accelerator

from trainers import oro, psft, rwr
from trainers.run import build, held_out, session
from trainers.run.processes import parallel
from trainers.run.processes.parallel import engine_of, gathered
from trainers.settings.options import exit_with_one_line
from trainers.settings.oro import OROConfig
from trainers.settings.regression import PSFTConfig, RWRConfig

TRAINERS = {"oro": (oro, OROConfig), "rwr": (rwr, RWRConfig), "psft": (psft, PSFTConfig)}
RANK, PROCESSES = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
LAUNCHED = {}
"""DeepSpeed's settings as the launcher gave them."""

CHECKS = 1
"""Judgements before the first step: of the data's own clips."""


class Brightness:
    """Mean colour of the clip, worse the further from grey."""

    def __init__(self, fault=None, judged_a_step=1):
        self.fault, self.count, self.at = fault, 0, CHECKS + judged_a_step + 1

    def score(self, video, columns, grad):
        self.count += 1
        if self.fault and self.count == self.at and RANK == PROCESSES - 1:
            print("FAULT", flush=True)
            if (found := misbehave(self.fault)) is not None:
                return found
        if self.fault == "slow" and RANK == PROCESSES - 1:
            time.sleep(0.5)
        with torch.set_grad_enabled(grad):
            total_B = -(video.frames_BTCHW.mean(dim=(1, 3, 4)) - 0.3).square().sum(1)
        return judged(total_B)


def judged(total_B):
    ones_B = torch.ones(len(total_B))
    terms = {"brightness": total_B.detach()}
    return types.SimpleNamespace(
        total_B=total_B, terms=terms, measurable_B=ones_B, reasons=[None] * len(ones_B), observation=None
    )


def misbehave(fault):
    if fault == "raise":
        raise ValueError("the reward's server is gone")
    if fault == "hang":
        time.sleep(600)
    if fault == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    if fault == "memory":
        raise torch.OutOfMemoryError("no 20 GiB left")
    if fault == "garbage":
        return judged(torch.tensor([1.0, float("inf")], requires_grad=True))
    return None


@contextlib.contextmanager
def tampered(trainer, fault):
    """A loss of the last process that is not finite in step 2, a disk full then, or process 0 writing for long."""
    loss, save, count = getattr(trainer, "denoising_loss", None), torch.save, 0
    begin, write = torch.distributed.init_process_group, held_out.write_video

    def not_finite(*arguments, **named):
        nonlocal count
        count += 1
        wrong = count == 2 and RANK == PROCESSES - 1
        if wrong:
            print("FAULT", flush=True)
        return loss(*arguments, **named) * (float("nan") if wrong else 1.0)

    def full(body, path, *arguments, **named):
        if "checkpoint-2" in str(path) and RANK == PROCESSES - 1:
            print("FAULT", flush=True)
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(body, path, *arguments, **named)

    def impatient(*arguments, **named):
        return begin(*arguments, **named | {"timeout": datetime.timedelta(seconds=6)})

    def slow_write(*arguments, **named):
        time.sleep(15)
        return write(*arguments, **named)

    if fault == "slow_writing":
        torch.distributed.init_process_group, held_out.write_video = impatient, slow_write
    if fault == "nan":
        trainer.denoising_loss = not_finite
    if fault == "disk":
        torch.save = full
    try:
        yield
    finally:
        trainer.denoising_loss, torch.save = loss, save
        torch.distributed.init_process_group, held_out.write_video = begin, write


class Recorder:
    """The gradients and the weights' hashes of every step."""

    def __init__(self):
        self.gradients, self.hashes, self.model = [], [], None

    def keep(self, weights, gradient_of):
        found = [gradient_of(weight) for weight in weights]
        zeros = [torch.zeros_like(weight) if one is None else one for weight, one in zip(weights, found, strict=True)]
        self.gradients.append([one.detach().cpu().clone() for one in zeros])

    @contextlib.contextmanager
    def watching(self):
        average, wrap, update, end = (
            parallel.average_gradients,
            build.wrap,
            session.Session.update,
            Accelerator.end_training,
        )

        def averaged(accelerator, weights):
            average(accelerator, weights)
            self.keep(weights, lambda weight: weight.grad)

        def wrapped(accelerator, model, optimizer, **options):
            if (plugin := accelerator.state.deepspeed_plugin) is not None:  # as no training had been before this one
                settings = plugin.deepspeed_config
                LAUNCHED.update({} if LAUNCHED else copy.deepcopy(settings))
                settings.clear()
                settings.update(copy.deepcopy(LAUNCHED))
            self.model = model
            made = wrap(accelerator, model, optimizer, **options)
            engine = engine_of(accelerator)
            if engine is not None:
                from deepspeed.utils import safe_get_full_grad

                honest = engine.step
                weights = [weight for weight in model.transformer.parameters() if weight.requires_grad]

                def step(*arguments, **named):
                    self.keep(weights, safe_get_full_grad)
                    return honest(*arguments, **named)

                engine.step = step
            return made

        def updated(run):
            figures = update(run)
            with gathered(run.state.weights.values()):
                digest = hashlib.sha256()
                for weight in run.state.weights.values():
                    digest.update(weight.detach().cpu().numpy().tobytes())
            self.hashes.append(digest.hexdigest()[:16])
            return figures

        parallel.average_gradients, build.wrap, session.Session.update = averaged, wrapped, updated
        Accelerator.end_training = lambda self: None  # the processes go on talking
        try:
            yield
        finally:
            parallel.average_gradients, build.wrap, session.Session.update = average, wrap, update
            Accelerator.end_training = end


if not torch.cuda.is_available():
    torch.accelerator.device_count = lambda: 1  # diffusers takes the rank modulo it


def train(experiment):
    """One experiment; what is known of it afterwards."""
    trainer, config_class = TRAINERS[experiment["trainer"]]
    config = config_class(**experiment["settings"])
    torch.manual_seed(RANK)  # what happened before must not matter
    recorder = Recorder()
    with recorder.watching(), tampered(trainer, experiment.get("fault")):
        trainer.train(config, recipe=Brightness(experiment.get("fault")))
    if RANK == 0:
        torch.save(recorder.gradients, f"{config.output_dir}.gradients.pt")
    dtypes = {str(weight.dtype) for weight in recorder.model.transformer.parameters()}
    return {
        "name": experiment["name"],
        "rank": RANK,
        "hashes": recorder.hashes,
        "dtypes": sorted(dtypes),
    }


def main(plan: str) -> None:
    for experiment in json.loads(Path(plan).read_text()):
        print(f"RESULT{json.dumps(train(experiment))}", flush=True)


if __name__ == "__main__":
    exit_with_one_line(lambda: main(sys.argv[1]))

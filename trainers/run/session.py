"""What stands around every trainer's loop: the model with what is trained of it, checkpoints, evaluation, logs.

The loop itself is the trainer's own. All processes call every function and method here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from tqdm import tqdm

from trainers.learning.batches import Scenes
from trainers.learning.clocks import Phases
from trainers.learning.scoring import Scorer
from trainers.models import VideoModel
from trainers.run import averages
from trainers.run import checkpoint as ckpt
from trainers.run.faults import StopSignal, leave
from trainers.run.finish import finish, save_weights, write_config
from trainers.run.folder import abandon, make_output_dir, run_bytes
from trainers.run.held_out import Share, evaluate_held_out
from trainers.run.process import held_gb, memory_gb, open_files, release_memory
from trainers.run.processes.parallel import (
    backward,
    gathered,
    is_sharded,
    reduce_and_clip,
    wait_for_all,
)
from trainers.run.records import parted, read_run
from trainers.run.standstill import Learning
from trainers.run.tracking import PROCESSES, MetricsFile, Trackers, open_trackers
from trainers.settings.common import TrainerConfig


@dataclasses.dataclass(kw_only=True)
class Session:
    """A run: model, state, judges and where figures go.

    Args:
        held_out: scenes of the evaluations.
        recipe: file of the rewards.
        full: every weight of the transformer is trained, not a LoRA.
        keep: called with a checkpoint's unfinished folder, by every process: what the trainer needs beyond the state.
        phases: clocks of the step's parts.
        skipped: steps without a finite gradient since the last with one.
        learning: whether steps and rounds teach anything.
        untrained: files of the networks whose LoRA no step teaches.
    """

    config: TrainerConfig
    accelerator: Accelerator
    model: VideoModel
    state: ckpt.TrainState
    judges: dict[str, Scorer]
    held_out: Scenes
    recipe: str
    full: bool = False
    keep: Callable[[Path], None] | None = None
    trackers: Trackers | None = None
    processes: Trackers | None = None
    progress: Any = None
    phases: Phases = dataclasses.field(default_factory=Phases)
    stop: StopSignal = dataclasses.field(default_factory=StopSignal)
    skipped: int = 0
    learning: Learning = dataclasses.field(default_factory=Learning)
    untrained: list[str] = dataclasses.field(default_factory=list)
    began_s: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def places(self) -> int:
        """How many processes, or groups that share their clips, have clips of their own."""
        return self.accelerator.num_processes // self.config.context_parallel_size

    @property
    def place(self) -> int:
        """Which of them this process is, or belongs to."""
        return self.accelerator.process_index // self.config.context_parallel_size

    @property
    def share(self) -> Share:
        """What of an evaluation is this process's."""
        leads = self.accelerator.process_index % self.config.context_parallel_size == 0
        return Share(place=self.place, places=self.places, leads=leads, in_step=is_sharded(self.accelerator))

    def open(self, resume: Path | None, *, title: str, refusal: str | None = None) -> dict[str, float]:
        """Make the folder, go on from `resume`, start trackers and progress bar, evaluate a run that is at step 0.

        Raises:
            ValueError: the refusal: its plan says that nothing can be learned. The folder keeps what was asked for.
        """
        config, state, accelerator = self.config, self.state, self.accelerator
        if self.is_main:
            make_output_dir(config.output_dir, resume=config.resume_from_checkpoint is not None)
            write_config(config)
        wait_for_all(accelerator)
        if resume is not None:
            self.learning.moved = True  # by the steps before
            changed = ckpt.load_checkpoint(resume, state, config=dataclasses.asdict(config), **self._rank)
            accelerator.print(f"resumed from {resume}" + "".join(f"\n  changed: {line}" for line in changed))
        if self.is_main:
            abandon(path for path in ckpt.checkpoints(config.output_dir) if ckpt.step_of(path) > state.step and resume)
            self.trackers = open_trackers(
                config.report_to,
                config.output_dir,
                config.run_name,
                dataclasses.asdict(config),
                resumed_step=state.step,
                runs=None if resume is None else ckpt.read_manifest(resume).get("trackers"),
            )
            self.processes = Trackers([MetricsFile(Path(config.output_dir), state.step, PROCESSES)])
        wait_for_all(accelerator)
        if refusal is not None:
            raise ValueError(refusal)
        self.stop.listen()
        quiet = config.disable_tqdm or not self.is_main
        self.progress = tqdm(total=config.max_steps, initial=state.step, desc=title, unit="step", disable=quiet)
        figures = self.evaluate() if config.eval_steps and state.step == 0 else {}
        if stopping := self.stop.asked(accelerator):
            self.leave(stopping)
        return figures

    def backward(self, loss: torch.Tensor, micro: int) -> None:
        """Add the gradient of one of a step's micro-batches, counted from 0."""
        count, parts = self.config.gradient_accumulation_steps, self.config.context_parallel_size
        if not loss.isfinite():  # whatever its gradient is, no process makes a step of it
            loss = loss * math.nan
        with self.phases("backward"):  # of parts of one gradient the mean is taken too, and the sum is meant
            backward(self.accelerator, loss / count * parts, last=micro + 1 == count)

    def update(self) -> dict[str, float]:
        """One optimizer step on the gradient averaged over the processes; its norm and the learning rate.

        A step whose gradient is not finite changes no weight.

        Raises:
            ValueError: more such steps in a row than `max_skipped_steps`, or more that taught nothing.
        """
        state = self.state
        with self.phases("wait"):
            norm = reduce_and_clip(self.accelerator, list(state.weights.values()), self.config.max_grad_norm)
        fine = math.isfinite(norm)
        self.skipped = 0 if fine else self.skipped + 1
        # DeepSpeed has made its step by now: there nothing can be skipped.
        if self.skipped > self.config.max_skipped_steps or (self.skipped and is_sharded(self.accelerator)):
            raise ValueError(
                f"the gradient was not finite in {self.skipped} steps in a row, the last of them {state.step + 1}: "
                "lower learning_rate or mend the reward, and resume from the last checkpoint"
            )
        if fine:
            self.learning.step(self.accelerator, norm, state.step + 1, self.config.max_skipped_steps)
            state.optimizer.step()
        else:
            self.accelerator.print(f"warning: step {state.step + 1} has no finite gradient and changes nothing")
        state.optimizer.zero_grad(set_to_none=True)
        learning_rate = state.scheduler.get_last_lr()[0]
        state.scheduler.step()
        state.step += 1
        averages.update_ema(state.ema, state.weights, self.config.ema_decay, state.step)
        return {"learning_rate": learning_rate, "skipped": float(not fine)} | ({"grad_norm": norm} if fine else {})

    def after_step(self, metrics: dict[str, float], started: float, shown: dict[str, str]) -> dict[str, float]:
        """Log the step, evaluate and save where it is time.

        Args:
            started: `time.perf_counter()` at the step's beginning.
            shown: what the progress bar shows.

        Returns:
            The metrics, with the evaluation's where there was one.
        """
        config, step = self.config, self.state.step
        seconds = time.perf_counter() - started
        metrics = metrics | {"memory_gb": memory_gb(), "seconds": seconds} | self.phases.take()
        each = self.of_every_process(seconds - metrics.get("seconds/wait", 0.0))
        if self.accelerator.num_processes > 1:
            metrics["seconds/slowest_process"] = max(each["seconds"])
            metrics["slowest_process"] = float(each["seconds"].index(max(each["seconds"])))
        if self.trackers is not None and self.processes is not None and step % config.logging_steps == 0:
            self.trackers.metrics(metrics, step)
            self.processes.metrics({"elapsed_s": time.monotonic() - self.began_s, **each}, step)
        self.progress.update()
        self.progress.set_postfix(**shown)
        if config.eval_steps and step % config.eval_steps == 0:
            metrics |= self.evaluate()
        stopping = self.stop.asked(self.accelerator) if step < config.max_steps else 0
        if stopping or step == config.max_steps or (config.save_steps and step % config.save_steps == 0):
            self.save()
        if stopping:
            self.leave(stopping)
        return metrics

    def leave(self, number: int) -> None:
        """End the run early, by SystemExit, after a signal of this number."""
        self.progress.close()
        leave(self.accelerator, self.stop, number, self.state.step, self.trackers)

    def of_every_process(self, seconds: float) -> dict[str, list[float]]:
        """What each process holds, and the seconds that it worked and did not wait; one value per process."""
        own = {"seconds": seconds, "held_gb": held_gb(), "open_files": open_files()}
        own |= {"gpu_gb": memory_gb()} if torch.cuda.is_available() else {}
        mine = torch.tensor([list(own.values())], dtype=torch.float32, device=self.accelerator.device)
        everything: Any = self.accelerator.gather(mine)
        return dict(zip(own, everything.T.tolist(), strict=True))

    def evaluate(self) -> dict[str, float]:
        """Judge held-out scenes with the moving average of the weights, where there is one; each process its share."""
        step = self.state.step
        folder = Path(self.config.output_dir) / "eval" / f"step_{step}" if self.is_main else None
        with averages.averaged(self.state):
            figures = evaluate_held_out(
                self.model,
                self.held_out,
                self.judges,
                self.config,
                step=step,
                folder=folder,
                trackers=self.trackers,
                share=self.share,
            )
            wait_for_all(self.accelerator)
        if self.is_main:
            for line in parted(read_run(self.config.output_dir)):
                print(f"alarm: {line}", file=sys.stderr)
        release_memory()
        return figures if self.is_main else {}

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            ValueError: it cannot be written; the older ones are whole.
        """
        config = self.config
        try:
            ckpt.save_checkpoint(
                config.output_dir,
                self.state,
                config=dataclasses.asdict(config),
                save_weights=lambda folder: save_weights(self.model, folder, full=self.full),
                evaluated=lambda: averages.averaged(self.state),
                recipe=self.recipe if Path(self.recipe).is_file() else None,
                keep=config.save_total_limit,
                barrier=functools.partial(wait_for_all, self.accelerator),
                extra=self.keep,
                trackers=None if self.trackers is None else self.trackers.runs,
                **self._rank,
            )
        except (OSError, SafetensorError) as error:
            whole = ckpt.checkpoints(config.output_dir)
            raise ValueError(
                f"the checkpoint of step {self.state.step} cannot be written to {config.output_dir}: {error}: "
                f"make room, then resume from {whole[-1].name if whole else 'the beginning'}"
            ) from error
        release_memory()

    def close(self, metrics: dict[str, float], *, method: str) -> None:
        """Write what was learned, with its card and reward curve."""
        self.progress.close()
        self.stop.forget()
        self.learning.end(self.accelerator)
        with averages.averaged(self.state), gathered(self.state.weights.values()):
            if self.trackers is not None:
                finish(
                    self.config,
                    self.model,
                    metrics,
                    self.trackers,
                    method=method,
                    recipe=self.recipe,
                    full=self.full,
                    untrained=self.untrained,
                )
            wait_for_all(self.accelerator)
        self.accelerator.end_training()

    def disk_bytes(self) -> int:
        """What the run writes at most."""
        return run_bytes(self.config, self.state.weights.values(), average=bool(self.state.ema))

    @property
    def _rank(self) -> dict[str, int]:
        return {"process": self.accelerator.process_index, "num_processes": self.accelerator.num_processes}

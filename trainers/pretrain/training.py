"""The loop that the estimators' pretraining commands share: progress, log, checkpoints, export."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from trainers.pretrain.common import Ema, cosine_with_warmup, load_checkpoint, provenance, save_checkpoint


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the estimators' commands on top of the common ones."""
    add = parser.add_argument
    add("--max_clips", type=int, default=4000, help="most clips to hold in memory (default: %(default)s)")
    add("--log_steps", type=int, default=25, help="steps between lines of train.jsonl (default: %(default)s)")
    add("--start_from", help="folder of exported weights to train further, in place of random ones")
    add("--stop_after_minutes", type=float, help="checkpoint, export and stop; the same command goes on from there")


class Training:
    """One run in a folder: it goes on from the folder's checkpoint and leaves weights that can be loaded."""

    def __init__(self, options: argparse.Namespace, model: nn.Module) -> None:
        self.options, self.model = options, model
        self.folder = Path(options.output_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        if options.start_from:
            model.load_state_dict(load_file(Path(options.start_from) / "model.safetensors"))
        decays = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decays, "weight_decay": 1e-4}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
        factor = cosine_with_warmup(options.max_steps, warmup=max(1, options.max_steps // 30))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.ema = Ema(model, decay=0.998)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.step = load_checkpoint(self.folder, self._state(), self.generator)

    def _state(self) -> dict[str, Any]:
        return {"model": self.model, "ema": self.ema, "optimizer": self.optimizer, "schedule": self.schedule}

    def steps(self) -> Iterator[int]:
        """Yield the number of every step still to do; checkpoint now and then and at the end."""
        started = time.monotonic()
        minutes = self.options.stop_after_minutes or float("inf")
        bar = tqdm(
            range(self.step, self.options.max_steps), initial=self.step, total=self.options.max_steps, unit="step"
        )
        for step in bar:
            yield step
            self.step = step + 1
            if self.step % self.options.save_steps == 0:
                save_checkpoint(self.folder, self.step, self._state(), self.generator)
            if time.monotonic() - started > 60 * minutes:
                break
        save_checkpoint(self.folder, self.step, self._state(), self.generator)

    def update(self, loss: Tensor, values: Mapping[str, float]) -> None:
        """Backward, clip, step, average; log `values` now and then."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.schedule.step()
        self.ema.update(self.model)
        if self.step % self.options.log_steps == 0:
            line = {"step": self.step, "loss": float(loss.detach()), "gradient_norm": float(norm), **values}
            with (self.folder / "train.jsonl").open("a") as file:
                file.write(json.dumps({k: round(v, 5) for k, v in line.items()}) + "\n")

    def export(self, config: Mapping[str, Any], quality: Mapping[str, float]) -> None:
        """Write the averaged weights in half precision, config.json, and training.json: command, seed and quality."""
        temporary = self.folder / "model.partial"
        half = {k: v.half() if v.is_floating_point() else v for k, v in self.ema.values.items()}
        save_file({name: tensor.contiguous() for name, tensor in half.items()}, temporary)
        os.replace(temporary, self.folder / "model.safetensors")
        training = provenance(self.options, quality) | {"steps": self.step}
        for name, content in (("config.json", config), ("training.json", training)):
            (self.folder / name).write_text(json.dumps(content, indent=2) + "\n")

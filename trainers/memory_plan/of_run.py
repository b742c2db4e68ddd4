"""The memory plan of a run, from its YAML alone: the first thing that `--dry_run` prints."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import diffusers
import torch
from huggingface_hub import try_to_load_from_cache

from trainers.learning.batches import clip_size
from trainers.memory_plan.blank import C, Step
from trainers.memory_plan.meter import cpu_workspace
from trainers.memory_plan.plan import GIB
from trainers.memory_plan.report import report
from trainers.models.sizes import find_size


def memory_lines(config: C, step: Step[C]) -> str:
    """The plan of one step of one process. Sizes that the YAML leaves open are those of the data.

    Raises:
        ValueError: the model's size is not known, or it does not take such clips.
    """
    size = find_size(config.model_name_or_path)
    if None in (config.num_frames, config.height, config.width):
        num_frames, height, width = clip_size(config)
        config = dataclasses.replace(config, num_frames=num_frames, height=height, width=width)
    on_gpu = torch.cuda.is_available() or config.memory_gib is not None
    verbosity = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()  # casting networks without data loses nothing
    try:
        workspace = None if on_gpu else cpu_workspace
        return report(size, config, step, config.memory_gib or _memory_gib(), workspace=workspace)
    finally:
        diffusers.utils.logging.set_verbosity(verbosity)


def print_memory(config: C, step: Step[C], *, quiet: bool = False) -> bool:
    """Print the plan, unless `quiet`; whether the model's weights are here, so that the run can be built as well.

    Raises:
        ValueError: there are no weights, and the settings do not suit the model.
    """
    here = has_weights(config.model_name_or_path)
    if quiet:
        return here
    try:
        find_size(config.model_name_or_path)
    except ValueError as error:
        print(f"no plan of memory: {error}")
        return True  # loading says what is wrong with it
    try:
        print(memory_lines(config, step))
    except ValueError as error:
        if not here:
            raise
        print(f"no plan of memory: {error}")
    if not here:
        print(f"the weights of {config.model_name_or_path} are not here: nothing else was built")
    return here


def has_weights(model_name_or_path: str) -> bool:
    """Whether a pipeline's transformer lies in a folder or in the hub's cache."""
    folder = Path(model_name_or_path)
    if not folder.is_dir():
        if model_name_or_path.count("/") != 1:
            return False
        index = try_to_load_from_cache(model_name_or_path, "model_index.json")
        if not isinstance(index, str):
            return False
        folder = Path(index).parent
    return any((folder / "transformer").glob("*.safetensors")) or any((folder / "transformer").glob("*.bin"))


def _memory_gib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / GIB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB

"""A pipeline loaded whole: what is missing in a folder, or stands in another form, is named instead of made up.

transformers gives a weight that a file lacks random numbers and goes on; diffusers leaves it without any, or its
classes fail far from the cause.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline

NEEDED = ("scheduler", "transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
"""Components that a pipeline cannot do without, where its class has them."""

LIBRARIES = {
    "bitsandbytes": "bitsandbytes",
    "gguf": "gguf",
    "quanto": "optimum.quanto",
    "torchao": "torchao",
    "modelopt": "modelopt",
    "auto-round": "auto_round",
}
"""What reads quantised weights, by the `quant_method` of a component's config."""

PACKAGES = {"optimum.quanto": "optimum-quanto", "modelopt": "nvidia-modelopt", "auto_round": "auto-round"}
SHOWN = 4
"""Tensors that a message names."""


def load_pipeline(path: str | Path, *, dtype: torch.dtype) -> Any:
    """The stock pipeline of a folder or hub name, every network of it with all its weights.

    Raises:
        ValueError: a component or a tensor that is missing, or quantised weights that nothing here can read.
    """
    index: dict[str, Any] = DiffusionPipeline.load_config(str(path))  # pyright: ignore[reportAssignmentType]
    parts = {name: part for name, part in index.items() if isinstance(part, (list, tuple)) and len(part) == 2}
    check_components(path, index["_class_name"], parts)
    loaded = {}
    for name, (library, class_name) in parts.items():
        network = network_class(library, class_name)
        if network is not None:
            loaded[name] = load_network(path, name, network, dtype)
    try:
        return DiffusionPipeline.from_pretrained(str(path), dtype=dtype, **loaded)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"model {path} cannot be read ({reason}): copy or download the whole pipeline") from error


def check_components(path: str | Path, pipeline_class: str, parts: dict[str, Any]) -> None:
    """Raise ValueError where the index names nothing for what the pipeline needs, or a folder that is not there."""
    takes = inspect.signature(getattr(diffusers, pipeline_class).__init__).parameters
    for name in NEEDED:
        if name in takes and parts.get(name, [None, None])[1] is None:
            raise ValueError(
                f"model {path} has no {name}, which {pipeline_class} needs: its model_index.json must name one; "
                "copy or download the whole pipeline"
            )
    if Path(path).is_dir():
        absent = [name for name, part in parts.items() if part[1] is not None and not (Path(path) / name).is_dir()]
        if absent:
            raise ValueError(
                f"model {path} lacks the folder of {', '.join(absent)}, which its model_index.json names: copy or "
                "download the whole pipeline"
            )
        for name, part in parts.items():  # without its config a tokenizer pads and cuts otherwise without a word
            if name.startswith("tokenizer") and part[1] and not (Path(path) / name / "tokenizer_config.json").is_file():
                raise ValueError(f"{name} of model {path} has no tokenizer_config.json: copy or download all of it")


def network_class(library: str | None, class_name: str | None) -> Any:
    """The class of a component that has weights; None of others, and of what only the pipeline knows."""
    module = {"diffusers": diffusers, "transformers": transformers}.get(library or "")
    found = getattr(module, class_name or "", None)
    kinds = (diffusers.ModelMixin, transformers.PreTrainedModel)
    return found if isinstance(found, type) and issubclass(found, kinds) else None


def load_network(path: str | Path, name: str, network: Any, dtype: torch.dtype) -> Any:
    """A component with all its weights.

    Raises:
        ValueError: it is of another class, quantised by an absent library, lacks a tensor, or has layers too many.
    """
    check_config(path, name, network)
    options: dict[str, Any] = {"subfolder": name, "dtype": dtype, "output_loading_info": True}
    if issubclass(network, transformers.PreTrainedModel):
        options["ignore_mismatched_sizes"] = True  # they are named below
    try:
        loaded: Any = network.from_pretrained(str(path), **options)
        made, said = loaded
    except ValueError as error:
        raise ValueError(f"{name} of model {path} cannot be read: {str(error).split(' If you want')[0]}") from error
    away = {key for key, weight in made.named_parameters() if weight.is_meta}
    wrong = {str(key[0] if isinstance(key, tuple) else key) for key in said.get("mismatched_keys") or ()}
    for keys, what in ((away | set(said["missing_keys"]), "lacks"), (wrong, "has other shapes of")):
        if keys:
            raise ValueError(
                f"{name} of model {path} {what} {listed(sorted(keys))}: its files are not those of a "
                f"{network.__name__} with this config; copy or download them again"
            )
    if issubclass(network, diffusers.ModelMixin):  # encoders may come with the decoder that they were trained with
        check_unused(path, name, sorted(said["unexpected_keys"]))
    return made


def check_config(path: str | Path, name: str, network: Any) -> None:
    """Raise ValueError where a component's config speaks of another class, or of a library that is not installed."""
    if issubclass(network, diffusers.ModelMixin):
        config: dict[str, Any] = network.load_config(str(path), subfolder=name)  # pyright: ignore
        stated = config.get("_class_name", network.__name__)
        if stated != network.__name__:
            raise ValueError(
                f"{name} of model {path} is a {stated}, but its model_index.json says {network.__name__}: copy or "
                "download the whole pipeline"
            )
    else:
        config = transformers.PretrainedConfig.get_config_dict(str(path), subfolder=name)[0]
    if not config:  # transformers would take its class's defaults, of billions of weights
        raise ValueError(f"{name} of model {path} has no config.json: copy or download the whole pipeline")
    quantised = config.get("quantization_config")
    if quantised:
        method = str(quantised.get("quant_method", "bitsandbytes")).rpartition(".")[2].lower()
        library = LIBRARIES.get(method, method)
        if not installed(library):
            raise ValueError(
                f"{name} of model {path} is quantised by {method}, which is not installed: `pip install "
                f"{PACKAGES.get(library, library)}`, or use the model's unquantised weights with bf16: true"
            )


def installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def check_unused(path: str | Path, name: str, keys: list[str]) -> None:
    """Raise ValueError where a file has weights of layers that the config does not; say so of others on stderr."""
    layers = [key for key in keys if re.search(r"\.\d+\.", key)]
    if layers:
        raise ValueError(
            f"{name} of model {path} has weights that its config has no place for: {listed(layers)}: its files and "
            "config are of different models; copy or download them again"
        )
    if keys:
        print(f"warning: {name} of model {path} uses none of {listed(keys)}", file=sys.stderr)


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more

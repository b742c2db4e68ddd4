"""LoRA files of many writers read into one form; a key that is not understood is refused by name.

A writer's file differs in what it calls a module (`adapter_names`), in prefixes, in the names of the two factors, and
in where it says how strong they are: an `alpha` tensor a module, or a config in the header or beside the file.

    W x + s B A x,   s = alpha / r, or alpha / sqrt(r) where rank-stabilised; 1 where nothing says alpha
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from trainers.models.adapter_names import layers_of, names_of

PREFIXES = (
    *("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "module.", "_orig_mod."),
    *("pipe.dit.", "dit.", "model."),
)
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_", "lora_dit_")
SECOND = "transformer_2."
"""Begins the keys of a second expert in one file with the first."""

FACTORS = {
    "lora_A": "A",
    "lora_B": "B",
    "lora_down": "A",
    "lora_up": "B",
    "lora.down": "A",
    "lora.up": "B",
    "lora_linear_layer.down": "A",
    "lora_linear_layer.up": "B",
}
FACTOR = re.compile(
    rf"(?P<module>.+)\.(?P<factor>{'|'.join(map(re.escape, FACTORS))})"
    r"(\.(?!weight$|bias$)[^.]+)?\.(?P<kind>weight|bias)"
)
OTHERS = {
    "DoRA": ("dora_scale", "lora_magnitude_vector"),
    "LoKr": (".lokr_",),
    "LoHa": (".hada_",),
    "OFT": (".oft_", ".boft_"),
    "Tucker LoCon": (".lora_mid",),
    "a text encoder's LoRA": ("text_encoder", "lora_te", "text_model", "conditioner."),
}
"""What is not a LoRA of the network, by parts of the keys."""

NAMED = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
SHOWN = 4


@dataclasses.dataclass(kw_only=True)
class Factors:
    """What a file holds for one of its modules: both factors, and what is added to its output, scaled or not."""

    A: Tensor | None = None
    B: Tensor | None = None
    bias: Tensor | None = None
    shift: Tensor | None = None
    alpha: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA in the form that diffusers loads: its weights by key, and peft's settings."""

    state: dict[str, Tensor]
    settings: dict[str, Any]


def find_adapter(path: str | Path, name: str = NAMED[0]) -> Path:
    """The safetensors file at a path, in a folder, or of a hub repository.

    Raises:
        ValueError: there is none, or a folder has several of which none has a usual name.
    """
    place = Path(path)
    if place.is_file():
        return place
    if place.is_dir():
        found = sorted(place.glob("*.safetensors"))
        usual = [file for file in found if file.name in (name, *NAMED[1:])]
        one = found if len(found) == 1 and name == NAMED[0] else []
        if not usual and not one:
            names = ", ".join(file.name for file in found) or "no safetensors file"
            raise ValueError(f"it must hold {name}, but has {names}: name the file itself")
        return (usual or one)[0]
    if str(path).count("/") != 1 or str(path).startswith((".", "/")):
        raise ValueError("there is no such file or folder")
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(str(path), name))


def read_adapter(file: Path, network: nn.Module, *, second: bool | None = None) -> Adapter:
    """The LoRA of a network from anyone's file.

    Args:
        second: of two experts, whether to read the second's keys, which begin with `transformer_2.`, or the others.

    Raises:
        ValueError: keys that are not understood, a shape that does not fit, another kind of adapter.
    """
    if file.suffix != ".safetensors" and not _is_safetensors(file):
        raise ValueError(f"{file.name} is no safetensors file, and nothing else is opened")
    state = load_file(str(file))
    if second is not None:
        own = {key: value for key, value in state.items() if key.startswith(SECOND) == second}
        state = {key.removeprefix(SECOND): value for key, value in own.items()}
    for kind, marks in OTHERS.items():
        keys = [key for key in state if any(mark in key for mark in marks)]
        if keys:
            raise ValueError(f"it has {kind}, which is not supported: {_listed(keys)}")
    broken = [key for key, value in state.items() if not value.float().isfinite().all()]
    if broken:
        raise ValueError(f"its weights {_listed(broken)} are not finite")
    config, native = _config_of(file, SECOND if second else "transformer.")
    if config.get("use_dora"):
        raise ValueError("it has DoRA, which is not supported: use_dora is true in its config")
    names = names_of(network)
    factors, unknown = _parsed(state, names)
    if unknown:
        raise ValueError(f"its keys {_listed(unknown)} are not understood: they name no layer of this model")
    weights, scales = _unfused(factors, names, network, config)
    plain = native and all(part.alpha is None for part in factors.values())
    return Adapter(state=weights, settings=config if plain else _settings(weights, scales))


def _is_safetensors(file: Path) -> bool:
    with file.open("rb") as opened:
        start = opened.read(9)
    return len(start) == 9 and start[8:] == b"{"


def _config_of(file: Path, prefix: str) -> tuple[dict[str, Any], bool]:
    """Rank, alpha and patterns as the file's header or its neighbour says them; whether they are diffusers' own."""
    with safe_open(str(file), framework="pt") as opened:
        header = opened.metadata() or {}
    try:
        if "lora_adapter_metadata" in header:
            given = json.loads(header["lora_adapter_metadata"])
            own = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
            return own, bool(own)
        if "lora_config" in header:
            return json.loads(header["lora_config"]), False
        alone = file.name == NAMED[1] or len(list(file.parent.glob("*.safetensors"))) == 1
        beside = file.parent / "adapter_config.json"  # of peft
        return (json.loads(beside.read_text()) if alone and beside.is_file() else {}), False
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"its config is no JSON: {error}") from error


def _parsed(state: Mapping[str, Tensor], names: Mapping[str, Any]) -> tuple[dict[str, Factors], list[str]]:
    """What the file holds, by the name that it has for a module; and the keys that mean nothing here."""
    found: dict[str, Factors] = collections.defaultdict(Factors)
    unknown = []
    for key, value in state.items():
        match = FACTOR.fullmatch(key)
        last = key.rpartition(".")[2]
        module = _known(match["module"] if match else key.rpartition(".")[0], names)
        if module is None:
            if not (last in ("diff", "diff_b") and not value.any()):  # of norms, where nothing was learned
                unknown.append(key)
        elif match and match["kind"] == "weight":
            setattr(found[module], FACTORS[match["factor"]], value)
        elif match and FACTORS[match["factor"]] == "B":
            found[module].bias = value
        elif last == "diff_b":
            found[module].shift = value
        elif last == "alpha" and value.numel() == 1:
            found[module].alpha = float(value)
        elif last != "diff" or value.any():
            unknown.append(key)
    return dict(found), unknown


def _known(module: str, names: Mapping[str, Any]) -> str | None:
    """A module's name without the prefixes of its writer, where the network has such a module."""
    for prefix in FLAT_PREFIXES:
        module = module.removeprefix(prefix)
    while module not in names:
        shorter = next((module.removeprefix(prefix) for prefix in PREFIXES if module.startswith(prefix)), None)
        if shorter is None:
            return None
        module = shorter
    return module


def _unfused(
    factors: Mapping[str, Factors], names: Mapping[str, tuple[str, ...]], network: nn.Module, config: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights by diffusers' keys, and each module's scale; what stands for several modules is split among them."""
    layers = layers_of(network)
    weights: dict[str, Tensor] = {}
    scales: dict[str, float] = {}
    for name, part in factors.items():
        if part.A is None or part.B is None:
            raise ValueError(f"its module {name} lacks {'lora_A (down)' if part.A is None else 'lora_B (up)'}")
        modules = names[name]
        sizes = [layers[module].weight.shape[0] for module in modules]
        inputs = layers[modules[0]].weight.shape[1:]
        if part.A.shape[1:] != inputs or part.B.shape[:2] != (sum(sizes), part.A.shape[0]):
            raise ValueError(
                f"its module {name} has factors {tuple(part.A.shape)} and {tuple(part.B.shape)}, but the layer is "
                f"{sum(sizes)} x {' x '.join(map(str, inputs))}"
            )
        bias = part.bias if part.shift is None else part.shift / _scale(name, modules[0], part, config)
        biases = [None] * len(sizes) if bias is None else bias.split(sizes)
        for module, rows, bias in zip(modules, part.B.split(sizes), biases, strict=True):
            if module in scales:
                raise ValueError(f"it has two factors for the layer {module}")
            weights[f"{module}.lora_A.weight"] = part.A.clone()
            weights[f"{module}.lora_B.weight"] = rows.contiguous().clone()
            if bias is not None:
                weights[f"{module}.lora_B.bias"] = bias.contiguous().clone()
            scales[module] = _scale(name, module, part, config)
    return weights, scales


def _scale(name: str, module: str, part: Factors, config: dict[str, Any]) -> float:
    assert part.A is not None
    rank, alpha = part.A.shape[0], config.get("lora_alpha", config.get("alpha"))
    patterns = config.get("alpha_pattern") or {}
    for called in (module, name):
        alpha = patterns.get(get_pattern_key(list(patterns), called), alpha)
    if alpha is not None and part.alpha is not None and not math.isclose(alpha, part.alpha, rel_tol=1e-3):
        raise ValueError(f"its module {name} has alpha {part.alpha:g}, but its config says {alpha:g}")
    given = next((value for value in (part.alpha, alpha) if value is not None), float(rank))
    return given / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _settings(weights: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, Any]:
    """Settings of peft that give each module its rank and scale."""
    if not scales:
        return {}
    ranks = {module: weights[f"{module}.lora_A.weight"].shape[0] for module in scales}
    alphas = {module: scales[module] * ranks[module] for module in scales}
    r, alpha = (collections.Counter(table.values()).most_common(1)[0][0] for table in (ranks, alphas))
    return {
        "r": r,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "rank_pattern": {f"^{module}": rank for module, rank in ranks.items() if rank != r},
        "alpha_pattern": {f"^{module}": one for module, one in alphas.items() if one != alpha},
        "target_modules": sorted(scales),
        "lora_bias": any(key.endswith(".bias") for key in weights),
    }


def set_exactly(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the network's LoRA the file's numbers in float32: loading rounds them to the type of the frozen weights."""
    parameters = dict(network.named_parameters())
    for key, value in state.items():
        stem, _, kind = key.rpartition(".")
        weight = parameters.get(f"{stem}.default.{kind}")
        if weight is None:
            raise ValueError(f"its config leaves out the layer of {key}")
        weight.data = value.to(weight.device, torch.promote_types(weight.dtype, torch.float32))


def _listed(keys: list[str]) -> str:
    keys = sorted(keys)
    return ", ".join(keys[:SHOWN]) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")

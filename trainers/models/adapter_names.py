"""What the modules of a network are called elsewhere: by the authors of the model, in ComfyUI, with dots or without.

A name may stand for several modules whose outputs follow each other, as one projection to queries, keys and values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from torch import nn

Modules = tuple[str, ...]

WAN = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "attn1.": "self_attn.",
    "attn2.": "cross_attn.",
    ".to_q": ".q",
    ".to_k": ".k",
    ".to_v": ".v",
    ".to_out.0": ".o",
    ".add_k_proj": ".k_img",
    ".add_v_proj": ".v_img",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "proj_out": "head.head",
}
LTX = {"proj_in": "patchify_proj", "time_embed.": "adaln_single."}
HUNYUAN = {
    "context_embedder.time_text_embed.timestep_embedder.linear_1": "txt_in.t_embedder.mlp.0",
    "context_embedder.time_text_embed.timestep_embedder.linear_2": "txt_in.t_embedder.mlp.2",
    "context_embedder.time_text_embed.text_embedder": "txt_in.c_embedder",
    "context_embedder.token_refiner.refiner_blocks": "txt_in.individual_token_refiner.blocks",
    "context_embedder.proj_in": "txt_in.input_embedder",
    "time_text_embed.timestep_embedder.linear_1": "time_in.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "time_in.mlp.2",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.mlp.0",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.mlp.2",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "x_embedder": "img_in",
    "single_transformer_blocks": "single_blocks",
    "transformer_blocks": "double_blocks",
}
HUNYUAN_DOUBLE = {
    "attn.to_out.0": "img_attn_proj",
    "attn.to_add_out": "txt_attn_proj",
    "norm1_context.linear": "txt_mod.linear",
    "norm1.linear": "img_mod.linear",
    "ff_context.net.0.proj": "txt_mlp.fc1",
    "ff_context.net.2": "txt_mlp.fc2",
    "ff.net.0.proj": "img_mlp.fc1",
    "ff.net.2": "img_mlp.fc2",
}
HUNYUAN_SINGLE = {"proj_out": "linear2", "norm.linear": "modulation.linear"}
HUNYUAN_REFINER = {
    "attn.to_out.0": "self_attn_proj",
    "norm_out.linear": "adaLN_modulation.1",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
COMFY = {
    "_attn_": "_attn.",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "_mod.linear": "_mod.lin",
    "modulation.linear": "modulation.lin",
}
"""ComfyUI's own names of HunyuanVideo's modules."""

QKV = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")


def layers_of(network: nn.Module) -> dict[str, Any]:
    """The modules that a LoRA can be on, by their names here."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def names_of(network: nn.Module) -> dict[str, Modules]:
    """Every name of a module or of several fused, with dots and with underscores in their place."""
    own = list(layers_of(network))
    names: dict[str, Modules] = {}
    for module in own:
        for name in (module, *_elsewhere(type(network).__name__, module)):
            names.setdefault(name, (module,))
    for name, parts in _fused(type(network).__name__, set(own)):
        names.setdefault(name, parts)
    flat = {name.replace(".", "_"): parts for name, parts in names.items()}
    return flat | names


def _elsewhere(network_class: str, module: str) -> Iterable[str]:
    if network_class == "WanTransformer3DModel":
        yield _renamed(module, WAN)
    elif network_class == "LTXVideoTransformer3DModel":
        yield _renamed(module, LTX)
    elif network_class == "HunyuanVideoTransformer3DModel":
        theirs = _hunyuan(module)
        yield from (theirs, _renamed(theirs, COMFY))


def _renamed(name: str, table: dict[str, str]) -> str:
    for ours, theirs in table.items():
        name = name.replace(ours, theirs)
    return name


def _hunyuan(module: str) -> str:
    block, table = module, {}
    if module.startswith("single_transformer_blocks."):
        table = HUNYUAN_SINGLE
    elif module.startswith("transformer_blocks."):
        table = HUNYUAN_DOUBLE
    elif ".refiner_blocks." in module:
        table = HUNYUAN_REFINER
    elif module == "proj_out":
        return "final_layer.linear"
    return _renamed(_renamed(block, table), HUNYUAN)


def _fused(network_class: str, own: set[str]) -> Iterable[tuple[str, Modules]]:
    """Names of several modules at once, where the network has all of them."""
    parents = {module.rpartition(".")[0] for module in own if module.endswith((".to_q", ".to_k"))}
    for parent in sorted(parents):
        parts = {
            "to_qkv": tuple(f"{parent}.{one}" for one in QKV),
            "to_kv": tuple(f"{parent}.{one}" for one in QKV[1:]),
            "to_added_qkv": tuple(f"{parent}.{one}" for one in ADDED),
        }
        whole = {name: modules for name, modules in parts.items() if own.issuperset(modules)}
        yield from ((f"{parent}.{name}", modules) for name, modules in whole.items())
        if network_class == "WanTransformer3DModel" and "to_qkv" in whole:
            yield (
                _renamed(f"{parent}.to_qkv", {"attn1.": "self_attn.", "attn2.": "cross_attn.", ".to_qkv": ".qkv"}),
                parts["to_qkv"],
            )
        elif network_class == "HunyuanVideoTransformer3DModel":
            yield from _fused_hunyuan(parent, whole, own)


def _fused_hunyuan(parent: str, whole: dict[str, Modules], own: set[str]) -> Iterable[tuple[str, Modules]]:
    block = parent.removesuffix(".attn")
    theirs = _renamed(block, HUNYUAN)
    found: dict[str, Modules] = {}
    if block.startswith("single_"):
        modules = (*whole.get("to_qkv", ()), f"{block}.proj_mlp")
        if len(modules) == 4 and own.issuperset(modules):
            found[f"{theirs}.linear1"] = modules
    elif block.startswith("transformer_blocks."):
        found |= {f"{theirs}.img_attn_qkv": whole["to_qkv"]} if "to_qkv" in whole else {}
        found |= {f"{theirs}.txt_attn_qkv": whole["to_added_qkv"]} if "to_added_qkv" in whole else {}
    elif "to_qkv" in whole:
        found[f"{theirs}.self_attn_qkv"] = whole["to_qkv"]
    for name, modules in itertools.chain(found.items()):
        yield name, modules
        yield _renamed(name, COMFY), modules

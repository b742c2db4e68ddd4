"""Estimators by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reward_physics import beside
from reward_physics.estimators.depth import DepthEstimator, EmbeddedDepth
from reward_physics.estimators.depth_net import DepthNet, DepthShape
from reward_physics.estimators.weights import EMBEDDED, load_into, read_config, read_weights, shape_from_config

SHIPPED = {"embedded": EMBEDDED / "depth", "judge": EMBEDDED / "judge_depth"}


def load_depth(name: str, *, autocast: bool = False, base: Path | None = None) -> DepthEstimator:
    """A depth estimator by name.

    Args:
        name: `embedded` or `judge`, which ship with the toolkit; the path of a folder written by
            `trainers.pretrain.depth`; or a depth model of `transformers`, by its name on the hub or the path of its
            folder, such as `depth-anything/Depth-Anything-V2-Small-hf`,
            `depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf` or `Intel/zoedepth-nyu`.
        autocast: run convolutions and matrix products in bfloat16.
        base: folder where a path is looked for first, before the working directory (a recipe's own).

    Raises:
        ValueError: no such estimator, or its weights are missing, corrupt or another network's.
    """
    where = find_depth(name, base)
    if isinstance(where, Path):
        config = read_config(where, "depth")
        if "model_type" not in config:
            return _load_embedded(where, config, autocast)
    from reward_physics.estimators.depth_transformers import load_transformers_depth

    return load_transformers_depth(str(where), autocast=autocast)


def find_depth(name: str, base: Path | None = None) -> Path | str:
    """The folder that `load_depth` would read, or the name of a model on the hub. Raises ValueError where it is
    neither."""
    if name in SHIPPED:
        return SHIPPED[name]
    tried = beside.places(name, base)
    folder = next((path for path in tried if (path / "config.json").is_file()), None)
    if folder is not None:
        return folder
    if any(path.exists() for path in tried) or "/" not in name or name.startswith((".", "/", "~")):
        raise ValueError(
            f"depth: unknown estimator {name!r}: expected {', '.join(SHIPPED)}, a folder with config.json and "
            "model.safetensors, or a hub name such as depth-anything/Depth-Anything-V2-Small-hf; "
            f"{beside.looked_for(name, base)}"
        )
    return name


def _load_embedded(folder: Path, config: dict[str, Any], autocast: bool) -> EmbeddedDepth:
    net = DepthNet(shape_from_config(DepthShape, "depth_net", config, "depth", folder / "config.json"))
    path = folder / "model.safetensors"
    load_into(net, read_weights(path, "depth"), "depth", path)
    return EmbeddedDepth(net, autocast=autocast)

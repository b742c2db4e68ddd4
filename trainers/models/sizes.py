"""Models by their numbers alone: what plans are made from where no weights are.

Each is the class and the arguments that differ from the class's defaults, of transformer and autoencoder; text and
image encoders count by their weights.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

UMT5_XXL, T5_XXL, LLAMA_8B = 5_680_910_336, 4_762_310_656, 8_030_261_248
CLIP_TEXT, CLIP_VISION_H = 123_060_480, 632_076_800

Made = tuple[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """A pipeline: its class, its components' classes and arguments, and how it is sampled.

    Args:
        text_weights: weights of the text and image encoders.
        experts: transformers of one shape.
        options: of the pipeline.
    """

    pipeline: str
    transformer: Made
    vae: Made
    scheduler: Made
    text_weights: int
    experts: int = 1
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


_FLOW = ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0})
_WAN_VAE: Any = ("AutoencoderKLWan", {})
_WAN: dict[str, Any] = {"pipeline": "WanPipeline", "scheduler": _FLOW, "vae": _WAN_VAE, "text_weights": UMT5_XXL}
_WAN_SMALL: dict[str, Any] = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
_WAN_5B = {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48}
_WAN_WIDE_VAE = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
_WAN_WIDE: dict[str, Any] = _WAN | {"vae": ("AutoencoderKLWan", _WAN_WIDE_VAE)}
_WAN_I2V: dict[str, Any] = _WAN | {"pipeline": "WanImageToVideoPipeline", "text_weights": UMT5_XXL + CLIP_VISION_H}
_COG: dict[str, Any] = {
    "scheduler": (
        "CogVideoXDDIMScheduler",
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "vae": (
        "AutoencoderKLCogVideoX",
        {
            "block_out_channels": (128, 256, 256, 512),
            "down_block_types": ("CogVideoXDownBlock3D",) * 4,
            "up_block_types": ("CogVideoXUpBlock3D",) * 4,
        },
    ),
    "text_weights": T5_XXL,
}
_COG_5B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
_COG_I2V_1_5 = {"in_channels": 32, "patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 512, "sample_frames": 81}

SIZES = {
    "ltx-2b": Size(
        pipeline="LTXPipeline",
        transformer=("LTXVideoTransformer3DModel", {}),
        vae=("AutoencoderKLLTXVideo", {}),
        scheduler=("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}),
        text_weights=T5_XXL,
    ),
    "wan2.1-1.3b": Size(**_WAN, transformer=("WanTransformer3DModel", _WAN_SMALL)),
    "wan2.1-14b": Size(**_WAN, transformer=("WanTransformer3DModel", {})),
    "wan2.1-i2v-14b": Size(
        **_WAN_I2V,
        transformer=("WanTransformer3DModel", {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}),
    ),
    "wan2.2-ti2v-5b": Size(
        **_WAN_WIDE,
        transformer=("WanTransformer3DModel", _WAN_5B),
        options={"expand_timesteps": True},
    ),
    "wan2.2-a14b": Size(**_WAN, transformer=("WanTransformer3DModel", {}), experts=2),
    "cogvideox-2b": Size(**_COG, pipeline="CogVideoXPipeline", transformer=("CogVideoXTransformer3DModel", {})),
    "cogvideox-5b": Size(**_COG, pipeline="CogVideoXPipeline", transformer=("CogVideoXTransformer3DModel", _COG_5B)),
    "cogvideox1.5-5b-i2v": Size(
        **_COG,
        pipeline="CogVideoXImageToVideoPipeline",
        transformer=("CogVideoXTransformer3DModel", _COG_5B | _COG_I2V_1_5),
    ),
    "hunyuanvideo": Size(
        pipeline="HunyuanVideoPipeline",
        transformer=("HunyuanVideoTransformer3DModel", {}),
        vae=("AutoencoderKLHunyuanVideo", {}),
        scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 7.0}),
        text_weights=LLAMA_8B + CLIP_TEXT,
    ),
}

REPOSITORIES = {
    "Lightricks/LTX-Video": "ltx-2b",
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "wan2.1-1.3b",
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": "wan2.1-14b",
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": "wan2.1-i2v-14b",
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": "wan2.2-ti2v-5b",
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": "wan2.2-a14b",
    "THUDM/CogVideoX-2b": "cogvideox-2b",
    "THUDM/CogVideoX-5b": "cogvideox-5b",
    "THUDM/CogVideoX1.5-5B-I2V": "cogvideox1.5-5b-i2v",
    "hunyuanvideo-community/HunyuanVideo": "hunyuanvideo",
}
"""Published pipelines on the hub, by the size that they have."""


def find_size(model_name_or_path: str) -> Size:
    """The numbers of a published model, or of a pipeline folder, whose configs are enough.

    Raises:
        ValueError: neither.
    """
    folder = Path(model_name_or_path)
    if (folder / "model_index.json").is_file():
        return _size_of_folder(folder)
    name = REPOSITORIES.get(model_name_or_path, model_name_or_path)
    if name not in SIZES:
        from trainers.settings.options import suggestion

        known = [*SIZES, *REPOSITORIES]
        raise ValueError(
            f"the size of {model_name_or_path} is not known: give a pipeline folder or one of {', '.join(known)}"
            f"{suggestion(model_name_or_path, known)}"
        )
    return SIZES[name]


def _size_of_folder(folder: Path) -> Size:
    index = json.loads((folder / "model_index.json").read_text())

    def made(name: str) -> Made:
        path = folder / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
        arguments = {key: value for key, value in json.loads(path.read_text()).items() if not key.startswith("_")}
        return index[name][1], arguments

    encoders = [name for name in index if name.startswith(("text_encoder", "image_encoder")) and index[name][1]]
    return Size(
        pipeline=index["_class_name"],
        transformer=made("transformer"),
        vae=made("vae"),
        scheduler=made("scheduler"),
        text_weights=sum(_weights(index[name][1], folder / name) for name in encoders),
        experts=1 + bool((index.get("transformer_2") or [None, None])[1]),
        options={name: index[name] for name in ("expand_timesteps",) if name in index},
    )


def _weights(class_name: str, folder: Path) -> int:
    import torch
    import transformers

    kind: Any = getattr(transformers, class_name)
    with torch.device("meta"):
        return sum(weight.numel() for weight in kind(kind.config_class.from_pretrained(folder)).parameters())

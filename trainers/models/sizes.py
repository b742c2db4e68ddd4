"""Published models by their numbers alone: what plans are made from where no weights are.

Each is the class and the arguments that differ from the class's defaults, of transformer and autoencoder; the text
encoder counts by its weights.
"""

from __future__ import annotations

import dataclasses
from typing import Any

UMT5_XXL, T5_XXL, LLAMA_8B = 5_680_910_336, 4_762_310_656, 8_030_261_248


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """A pipeline: its class, its components' classes and arguments, and how it is sampled.

    Args:
        text_weights: weights of the text encoders.
        text_length, text_width: tokens and features of a prompt.
    """

    pipeline: str
    transformer: tuple[str, dict[str, Any]]
    vae: tuple[str, dict[str, Any]]
    scheduler: tuple[str, dict[str, Any]]
    text_weights: int
    text_length: int
    text_width: int = 4096
    experts: int = 1
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


_FLOW = ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0})
_EULER = ("FlowMatchEulerDiscreteScheduler", {"shift": 7.0})
_WAN = {"pipeline": "WanPipeline", "scheduler": _FLOW, "text_weights": UMT5_XXL, "text_length": 512}
_WAN_VAE = ("AutoencoderKLWan", {})
_WAN_SMALL = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
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
_COG = {
    "pipeline": "CogVideoXPipeline",
    "scheduler": (
        "CogVideoXDDIMScheduler",
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "text_weights": T5_XXL,
    "text_length": 226,
}
_COG_VAE = {
    "block_out_channels": (128, 256, 256, 512),
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
}
_COG_5B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}

SIZES = {
    "ltx-2b": Size(
        pipeline="LTXPipeline",
        transformer=("LTXVideoTransformer3DModel", {}),
        vae=("AutoencoderKLLTXVideo", {}),
        scheduler=("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}),
        text_weights=T5_XXL,
        text_length=128,
    ),
    "wan2.1-1.3b": Size(**_WAN, transformer=("WanTransformer3DModel", _WAN_SMALL), vae=_WAN_VAE),
    "wan2.1-14b": Size(**_WAN, transformer=("WanTransformer3DModel", {}), vae=_WAN_VAE),
    "wan2.2-ti2v-5b": Size(
        **_WAN,
        transformer=("WanTransformer3DModel", _WAN_5B),
        vae=("AutoencoderKLWan", _WAN_WIDE_VAE),
        options={"expand_timesteps": True},
    ),
    "wan2.2-a14b": Size(**_WAN, transformer=("WanTransformer3DModel", {}), vae=_WAN_VAE, experts=2),
    "cogvideox-2b": Size(
        **_COG, transformer=("CogVideoXTransformer3DModel", {}), vae=("AutoencoderKLCogVideoX", _COG_VAE)
    ),
    "cogvideox-5b": Size(
        **_COG, transformer=("CogVideoXTransformer3DModel", _COG_5B), vae=("AutoencoderKLCogVideoX", _COG_VAE)
    ),
    "hunyuanvideo": Size(
        pipeline="HunyuanVideoPipeline",
        transformer=("HunyuanVideoTransformer3DModel", {}),
        vae=("AutoencoderKLHunyuanVideo", {}),
        scheduler=_EULER,
        text_weights=LLAMA_8B + 123_060_480,
        text_length=256,
    ),
}

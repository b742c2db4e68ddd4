"""Random little Wan pipelines of the real classes, in each of the family's layouts."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
)

from trainers.models.tiny.ltx import tiny_tokenizer

LAYOUTS = ("t2v", "i2v", "ti2v", "a14b", "a14b_i2v")
HEADS, HEAD_WIDTH, TEXT, IMAGE = 2, 12, 16, 8


def tiny_wan_autoencoder(*, wide: bool = False) -> AutoencoderKLWan:
    """Return a random autoencoder, 4-fold in time: 8-fold in space, or 16-fold with patches and shortcuts (`wide`)."""
    generator = torch.Generator().manual_seed(0)
    statistics: dict[str, Any] = {
        "latents_mean": (0.2 * torch.randn(4, generator=generator)).tolist(),
        "latents_std": (0.5 + torch.rand(4, generator=generator)).tolist(),
    }
    if wide:
        statistics |= {
            "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16,
        }  # fmt: skip
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        **statistics,
    )


def tiny_wan(folder: str | Path | None = None, *, layout: str = "t2v", seed: int = 0, euler: bool = False) -> Any:
    """Return (and save to `folder`, where given) a random pipeline of one of `LAYOUTS`."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    concatenates, encodes = layout.endswith("i2v") and layout != "ti2v", layout == "i2v"
    tokenizer = tiny_tokenizer(max_length=512)
    text_config = UMT5Config(
        vocab_size=len(tokenizer), d_model=TEXT, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0
    )

    def transformer() -> WanTransformer3DModel:
        return WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=HEADS,
            attention_head_dim=HEAD_WIDTH,
            in_channels=12 if concatenates else 4,
            out_channels=4,
            text_dim=TEXT,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
            image_dim=IMAGE if encodes else None,
            added_kv_proj_dim=HEADS * HEAD_WIDTH if encodes else None,
        ).eval()

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    parts: dict[str, Any] = {
        "tokenizer": tokenizer,
        "text_encoder": UMT5EncoderModel(text_config).eval(),
        "vae": tiny_wan_autoencoder(wide=layout == "ti2v").eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0) if euler else UniPCMultistepScheduler(**flow),
        "transformer": transformer(),
        "expand_timesteps": layout == "ti2v",
    }
    if layout.startswith("a14b"):
        parts |= {"transformer_2": transformer(), "boundary_ratio": 0.8}
    if encodes:
        vision = CLIPVisionConfig(
            hidden_size=IMAGE,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        )
        parts["image_encoder"] = CLIPVisionModel(vision).eval()
        parts["image_processor"] = CLIPImageProcessor(crop_size=32, size=32)
    pipeline = (WanImageToVideoPipeline if concatenates else WanPipeline)(**parts)
    torch.set_rng_state(state)
    if folder is not None:
        pipeline.save_pretrained(folder)
    return pipeline

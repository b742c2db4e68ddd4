"""Random little CogVideoX pipelines of the real classes."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel

from trainers.models.tiny.ltx import tiny_tokenizer

LAYOUTS = ("t2v", "t2v_1.5", "i2v", "i2v_1.5")


def tiny_cogvideox(folder: str | Path | None = None, *, layout: str = "t2v", seed: int = 0) -> Any:
    """Return (and save to `folder`, where given) a random pipeline of one of `LAYOUTS`: 8-fold in space, 4 in time."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    image, later = layout.startswith("i2v"), layout.endswith("1.5")
    tokenizer: Any = tiny_tokenizer()
    text_config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    layout_of_blocks: dict[str, Any] = {"block_out_channels": (8, 8, 8, 8)}
    for way in ("Down", "Up"):
        layout_of_blocks[f"{way.lower()}_block_types"] = (f"CogVideoX{way}Block3D",) * 4
    vae = AutoencoderKLCogVideoX(
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        invert_scale_latents=later,
        **layout_of_blocks,
    )
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8 if image else 4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=2,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        patch_size=2,
        patch_size_t=2 if later else None,
        patch_bias=not later,
        temporal_compression_ratio=4,
        max_text_seq_length=32,
        use_rotary_positional_embeddings=image or later,
        ofs_embed_dim=8 if image and later else None,
    )
    pipeline = (CogVideoXImageToVideoPipeline if image else CogVideoXPipeline)(
        tokenizer=tokenizer,
        text_encoder=T5EncoderModel(text_config).eval(),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        ),
    )
    torch.set_rng_state(state)
    if folder is not None:
        pipeline.save_pretrained(folder)
    return pipeline

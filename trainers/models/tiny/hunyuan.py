"""Random little HunyuanVideo pipelines of the real classes."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from trainers.models.tiny.ltx import tiny_tokenizer

LAYOUTS = ("t2v", "token_replace", "latent_concat")
MARKS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"]
TEXT, POOLED = 16, 8


def tiny_hunyuan(folder: str | Path | None = None, *, layout: str = "t2v", seed: int = 0) -> Any:
    """Return (and save to `folder`, where given) a random pipeline of one of `LAYOUTS`: 8-fold in space, 4 in time."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    tokenizer: Any = tiny_tokenizer(max_length=512, piece_length=4)  # the stock crops the template by its tokens
    tokenizer.add_tokens(MARKS, special_tokens=True)
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
    }
    image = layout != "t2v"
    channels = {"t2v": 4, "token_replace": 4, "latent_concat": 9}[layout]
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=channels,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        guidance_embeds=layout != "latent_concat",
        text_embed_dim=TEXT,
        pooled_projection_dim=POOLED,
        rope_axes_dim=(2, 4, 4),
        image_condition_type=layout if image else None,
    )
    parts: dict[str, Any] = {
        "tokenizer": tokenizer,
        "text_encoder": (_llava(text, tokenizer) if image else LlamaModel(LlamaConfig(**text))).eval(),
        "tokenizer_2": tiny_tokenizer(),
        "text_encoder_2": _pooling_encoder(len(tokenizer)).eval(),
        "vae": _autoencoder().eval(),
        "transformer": transformer.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }
    if image:
        parts["image_processor"] = CLIPImageProcessor(crop_size=336, size=336)
    pipeline = (HunyuanVideoImageToVideoPipeline if image else HunyuanVideoPipeline)(**parts)
    torch.set_rng_state(state)
    if folder is not None:
        pipeline.save_pretrained(folder)
    return pipeline


def _pooling_encoder(vocabulary: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=POOLED,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=POOLED,
        eos_token_id=1,
        bos_token_id=0,
        pad_token_id=0,
    )
    return CLIPTextModel(config)


def _llava(text: dict[str, Any], tokenizer: Any) -> LlavaForConditionalGeneration:
    """The stock template counts on 576 image tokens: 24 x 24 patches."""
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=336, patch_size=14
    )
    token = tokenizer.convert_tokens_to_ids("<image>")
    options: dict[str, Any] = {"image_token_index": token, "pad_token_id": 0}
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(**text), **options)
    return LlavaForConditionalGeneration(config)


def _autoencoder() -> AutoencoderKLHunyuanVideo:
    blocks: dict[str, Any] = {"block_out_channels": (8, 8, 8, 8)}
    for way in ("Down", "Up"):
        blocks[f"{way.lower()}_block_types"] = (f"HunyuanVideo{way}Block3D",) * 4
    return AutoencoderKLHunyuanVideo(latent_channels=4, layers_per_block=1, norm_num_groups=4, **blocks)

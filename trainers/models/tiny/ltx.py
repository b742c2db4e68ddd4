"""Random little pipelines of the real classes, with nothing to download: tests and pretraining start from them."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

_WORDS = [
    "a red ball falls onto tiles from two metres",
    "a blue box slides",
    "gravity camera 0 1 2 3 4 5 6 7 8 9 . m cm",
]


def tiny_tokenizer(
    texts: list[str] | None = None, max_length: int = 32, *, piece_length: int | None = None
) -> PreTrainedTokenizerFast:
    """Return a word tokenizer trained on `texts` that ends every sentence with `</s>` as T5's does.

    Args:
        piece_length: cut words into pieces of at most so many letters.
    """
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    cuts = [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)]
    if piece_length is not None:
        cuts.append(pre_tokenizers.Split(Regex(rf"\w{{1,{piece_length}}}"), "isolated"))
    core.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    specials = ["<pad>", "</s>", "<unk>"]
    core.train_from_iterator(texts or _WORDS, trainers.WordLevelTrainer(special_tokens=specials))
    core.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", core.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=max_length
    )


def small_autoencoder(*, latent_channels: int, width: int) -> AutoencoderKLLTXVideo:
    """Return a random autoencoder of pixel patches of 8 and one halving of space and time: 16-fold and 2-fold."""
    return AutoencoderKLLTXVideo(
        latent_channels=latent_channels,
        block_out_channels=(width, width),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        decoder_block_out_channels=(width, width),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, False),
        decoder_spatio_temporal_scaling=(True, False),
        decoder_inject_noise=(False, False, False),
        downsample_type=("conv", "conv"),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        patch_size=8,
        scaling_factor=1.0,
    )


def tiny_ltx(folder: str | Path | None = None, *, seed: int = 0, width: int = 24, layers: int = 2) -> LTXPipeline:
    """Return (and save to `folder`, where given) a random LTX pipeline: 16-fold in space, 2-fold in time.

    Clips of 9 frames of 32 x 32 px become latents of 5 x 2 x 2 tokens of 8 channels.
    """
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    text_config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.1
    )
    vae = small_autoencoder(latent_channels=8, width=8)
    torch.nn.init.normal_(vae.latents_mean, std=0.2)
    torch.nn.init.uniform_(vae.latents_std, 0.5, 1.5)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=width // 2,
        cross_attention_dim=width,
        num_layers=layers,
        caption_channels=16,
    )
    pipeline = LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=T5EncoderModel(text_config).eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )
    torch.set_rng_state(state)
    if folder is not None:
        pipeline.save_pretrained(folder)
    return pipeline

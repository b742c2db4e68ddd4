"""Pretrain the embedded video model on slow drops: `python -m trainers.pretrain.video --autoencoder DIR`.

A stock `LTXVideoTransformer3DModel` and a small T5 encoder learn together, by flow matching on the latents of a frozen
autoencoder,

    x_sigma = (1 - sigma) x_0 + sigma noise,   loss = mean(w |v(x_sigma, sigma, text) - (noise - x_0)|^2),

with the first latent frame clean at timestep 0 in most clips (image-to-video) and noised in the others (text-to-video).
w weighs up the columns of latents that anything passes through, at all their times: a weight that depended on where the
object is at one moment would bias what the model predicts. Noise levels are drawn as the scheduler's shift spaces them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm
from transformers import T5Config, T5EncoderModel

from data.rows import load_split
from trainers.models.ltx import LTXModel
from trainers.models.tiny.ltx import tiny_tokenizer
from trainers.pretrain.autoencoder import load_clips, to_model
from trainers.pretrain.common import (
    Ema,
    cosine_with_warmup,
    load_checkpoint,
    pretraining_parser,
    provenance,
    save_checkpoint,
)

SHIFT = 3.0
"""Spacing of noise levels, in training and in the scheduler: sigma = shift u / (1 + (shift - 1) u)."""

FPS = 16.0
"""Frames a second of the clips that are learned."""

LATENT_GRID = (9, 4, 4)
"""Latent frames, rows and columns of a clip of 17 frames of 64 x 64 px."""


def build_pipeline(autoencoder: AutoencoderKLLTXVideo, captions: list[str], width: int, layers: int) -> LTXPipeline:
    """A random pipeline around a trained autoencoder; the words of the captions are the tokenizer's vocabulary."""
    tokenizer = tiny_tokenizer(captions, max_length=128)
    text = T5Config(
        vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    channels = autoencoder.config["latent_channels"]
    transformer = LTXVideoTransformer3DModel(
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=width // 32,
        attention_head_dim=32,
        cross_attention_dim=width,
        num_layers=layers,
        caption_channels=text.d_model,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    return LTXPipeline(
        scheduler=scheduler,
        vae=autoencoder,
        text_encoder=T5EncoderModel(text),
        tokenizer=tokenizer,
        transformer=transformer,
    )


@torch.no_grad()
def encode_split(model: LTXModel, folders: list[str], cache: Path) -> Tensor:
    """Latent tokens (2, N, tokens, channels) of every clip, as it is and mirrored, kept in `cache`."""
    if cache.exists():
        return load_file(cache)["latents"]
    clips = load_clips(folders)
    latents = []
    for batch in tqdm(clips.split(8), desc="encoding clips"):
        frames = (to_model(batch) * 0.5 + 0.5).movedim(1, 2)
        latents.append(torch.stack([model.encode_clip(frames), model.encode_clip(frames.flip(-1))]))
    tokens = torch.cat(latents, dim=1)
    temporary = cache.with_suffix(".partial")
    save_file({"latents": tokens.contiguous()}, temporary)
    os.replace(temporary, cache)
    return tokens


def column_weights(tokens_BND: Tensor, weight: float) -> Tensor:
    """1 for still columns of latents and 1 + weight for those that change in time, for all times: (B, N, 1)."""
    frames, rows, columns = LATENT_GRID
    latents = tokens_BND.unflatten(1, (frames, rows * columns))
    change = (latents - latents[:, :1]).square().mean(-1).sqrt().amax(1, keepdim=True)
    moving = (change > 0.5).float().expand(-1, frames, -1)
    return (1 + weight * moving).flatten(1)[..., None]


def read_captions(folders: list[str]) -> list[str]:
    """The captions of every clip of the folders, in the order of `encode_split`.

    Raises:
        ValueError: a clip of another frame rate than the model learns.
    """
    captions: list[str] = []
    for folder in folders:
        table = load_split(Path(folder).name, Path(folder).parent, ["caption", "fps"])
        other = {float(rate) for rate in table["fps"]} - {FPS}
        if other:
            raise ValueError(
                f"the clips of {folder} must have {FPS:g} frames a second, got {min(other):g}: leave it out"
            )
        captions += [str(caption) for caption in table["caption"]]
    return captions


def train(options: argparse.Namespace) -> LTXPipeline:
    """Train from scratch or from the last checkpoint; returns the averaged weights as a pipeline."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.num_threads)
    generator = torch.Generator().manual_seed(options.seed)
    output = Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    captions = read_captions(options.data)
    pipeline = first_pipeline(options, captions)
    model = LTXModel(pipeline)
    latents = encode_split(model, options.data, output / "latents.safetensors")
    trained = nn.ModuleDict({"transformer": pipeline.transformer, "text_encoder": pipeline.text_encoder})
    trained.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(
        trained.parameters(), lr=options.learning_rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine_with_warmup(options.max_steps, 100))
    ema = Ema(trained, decay=0.998)
    state = {"model": trained, "optimizer": optimizer, "schedule": schedule, "ema": ema}
    start = load_checkpoint(output, state, generator)
    prompts = pipeline.tokenizer(
        [*captions, ""], padding="max_length", max_length=128, truncation=True, return_tensors="pt"
    )
    progress = tqdm(range(start, options.max_steps), initial=start, total=options.max_steps, desc="video model")
    recent = None
    for step in progress:
        index = torch.randint(latents.shape[1], (options.batch_size,), generator=generator)
        mirrored = torch.randint(2, (options.batch_size,), generator=generator)
        told = torch.rand(options.batch_size, generator=generator) > options.caption_dropout
        loss = flow_matching_loss(
            model, latents[mirrored, index], torch.where(told, index, len(captions)), prompts, options, generator
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update(trained)
        recent = loss.item() if recent is None else 0.98 * recent + 0.02 * loss.item()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{recent:.4f}")
        if (step + 1) % options.save_steps == 0 or step + 1 == options.max_steps:
            save_checkpoint(output, step + 1, state, generator)
            save_pipeline(pipeline, ema, trained, output / "pipeline")
    ema.copy_to(trained)
    return pipeline


def first_pipeline(options: argparse.Namespace, captions: list[str]) -> LTXPipeline:
    """The pipeline to train further, or a new one over the trained autoencoder."""
    if options.start_from:
        return LTXPipeline.from_pretrained(options.start_from)
    autoencoder = AutoencoderKLLTXVideo.from_pretrained(options.autoencoder)
    return build_pipeline(autoencoder, [*captions, ""], options.width, options.layers)


def flow_matching_loss(
    model: LTXModel, clean: Tensor, caption_B: Tensor, prompts, options: argparse.Namespace, generator: torch.Generator
) -> Tensor:
    """The loss of the module's docstring on latents (B, N, D); a share of the clips has its first frame given."""
    batch, (frames, rows, columns) = len(clean), LATENT_GRID
    u = torch.rand(batch, generator=generator)
    sigma_B = SHIFT * u / (1 + (SHIFT - 1) * u)
    noise = torch.randn(clean.shape, generator=generator)
    given_B = torch.rand(batch, generator=generator) < options.image_share
    free = torch.ones(batch, frames * rows * columns, 1)
    free[given_B, : rows * columns] = 0
    noisy = torch.where(free.bool(), model.add_noise(clean, noise, sigma_B), clean)
    # Flash attention in bf16 has a backward on CPUs that costs four times that of the plain kernels.
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16), sdpa_kernel(SDPBackend.MATH):
        # The text encoder sees the padding, as in the stock pipeline; the transformer masks it and need not carry it.
        longest = int(prompts.attention_mask.sum(1).max())
        text = model.pipeline.text_encoder(prompts.input_ids[caption_B])[0][:, :longest]
        prediction = model.transformer(
            hidden_states=noisy,
            encoder_hidden_states=text,
            timestep=sigma_B[:, None] * 1000 * free[..., 0],
            encoder_attention_mask=prompts.attention_mask[caption_B, :longest].bool(),
            num_frames=frames,
            height=rows,
            width=columns,
            rope_interpolation_scale=(
                model.vae.temporal_compression_ratio / FPS,
                model.vae.spatial_compression_ratio,
                model.vae.spatial_compression_ratio,
            ),
            return_dict=False,
        )[0].float()
    weight = column_weights(clean, options.motion_weight) * free
    error = (prediction - model.training_target(clean, noise)).square().mean(-1, keepdim=True)
    return (weight * error).sum() / weight.sum()


def save_pipeline(pipeline: LTXPipeline, ema: Ema, trained: nn.ModuleDict, folder: Path) -> None:
    """Save the pipeline with the averaged weights; training goes on with its own."""
    own = {key: value.clone() for key, value in trained.state_dict().items()}
    trained.load_state_dict(ema.values)
    pipeline.save_pretrained(folder)
    trained.load_state_dict(own)


def main(arguments: list[str] | None = None) -> None:
    """Train the transformer and text encoder and save the whole pipeline in the layout of diffusers."""
    parser = pretraining_parser("video", __doc__, steps=10000, batch_size=12, learning_rate=1e-3)
    add = parser.add_argument
    add("--autoencoder", default="runs/pretrain/autoencoder", help="folder of the trained autoencoder")
    add("--start_from", help="pipeline folder to train further, such as data/drops/model, in place of random weights")
    add("--width", type=int, default=192, help="width of the transformer (default: %(default)s)")
    add("--layers", type=int, default=6, help="blocks of the transformer (default: %(default)s)")
    add(
        "--image_share",
        type=float,
        default=0.9,
        help="share of clips with the first frame given (default: %(default)s)",
    )
    add("--caption_dropout", type=float, default=0.1, help="share of clips without a caption (default: %(default)s)")
    add("--motion_weight", type=float, default=3.0, help="extra weight of what moves (default: %(default)s)")
    options = parser.parse_args(arguments)
    pipeline = train(options)
    pipeline.save_pretrained(options.output_dir + "/pipeline")
    path = Path(options.output_dir) / "pipeline" / "training.json"
    path.write_text(json.dumps(provenance(options, {}), indent=2) + "\n")
    print(f"saved in {path.parent}")


if __name__ == "__main__":
    main()

"""Pretrain the embedded autoencoder on rendered drops: `python -m trainers.pretrain.autoencoder --max_steps 2400`.

A stock `AutoencoderKLLTXVideo` learns to rebuild clips: x -> z ~ q(z | x) -> x_hat with the loss

    mean(w |x_hat - x|) + 10 mean(w (x_hat - x)^2) + kl_weight KL(q(z | x) || N(0, I)),

w = 1 + motion_weight where a pixel differs from the clip's mean image, 1 elsewhere. Training starts from principal
components (`linear_start.py`); its first steps see short clips, which cost less. How the pipelines are to normalise the
latents (`channel_weights`) is measured at the end and saved with the weights.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKLLTXVideo
from torch import Tensor
from tqdm import tqdm

from data.rows import load_split
from trainers.models.tiny.ltx import small_autoencoder
from trainers.pretrain.common import (
    Ema,
    cosine_with_warmup,
    load_checkpoint,
    pretraining_parser,
    provenance,
    save_checkpoint,
)
from trainers.pretrain.linear_start import start_linear


def build_autoencoder() -> AutoencoderKLLTXVideo:
    """17 x 64 x 64 pixels to 9 x 4 x 4 latents of 96 channels."""
    return small_autoencoder(latent_channels=96, width=96)


def reconstruction_loss(rebuilt: Tensor, clips: Tensor, motion_weight: float) -> Tensor:
    """Weighted L1 plus ten times L2 of clips (B, C, T, H, W) in [-1, 1]; pixels that move weigh 1 + motion_weight."""
    moving = (clips - clips.mean(dim=2, keepdim=True)).abs().amax(dim=1, keepdim=True) > 0.06
    weight = 1 + motion_weight * moving.float()
    difference = rebuilt.float() - clips
    return (weight * (difference.abs() + 10 * difference.square())).mean()


def rebuild(autoencoder: AutoencoderKLLTXVideo, clips: Tensor) -> Tensor:
    """Clips (B, C, T, H, W) in [-1, 1] through the mode of their latents and back."""
    return cast(Any, autoencoder.decode(posterior(autoencoder, clips).mode())).sample


def posterior(autoencoder: AutoencoderKLLTXVideo, clips: Tensor) -> Any:
    """q(z | x) of clips."""
    return cast(Any, autoencoder.encode(clips)).latent_dist


def psnr_db(rebuilt: Tensor, clips: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each clip in decibels, for values in [-1, 1]."""
    error = (rebuilt.float().clamp(-1, 1) - clips).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp_min(1e-12))


def load_clips(folders: list[str], limit: int | None = None) -> Tensor:
    """The frames of every clip of the folders: uint8 (N, T, H, W, 3)."""
    tensors = []
    for folder in folders:
        path = Path(folder)
        table = load_split(path.name, path.parent, columns=["frames"])
        rows = [table[index]["frames"] for index in range(min(limit or len(table), len(table)))]
        tensors.append(torch.as_tensor(np.stack(rows)).to(torch.uint8))
    return torch.cat(tensors)


def to_model(frames_NTHWC: Tensor) -> Tensor:
    """Bytes to the autoencoder's layout and range: (N, C, T, H, W) in [-1, 1]."""
    return frames_NTHWC.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


@torch.no_grad()
def reconstruction_psnr_db(autoencoder: AutoencoderKLLTXVideo, clips: Tensor) -> float:
    """Mean PSNR in decibels of the clips, each rebuilt from the mode of its latent distribution."""
    values = []
    for batch in clips.split(8):
        x = to_model(batch)
        values.append(psnr_db(rebuild(autoencoder, x), x))
    return torch.cat(values).mean().item()


@torch.no_grad()
def measure_latents(autoencoder: AutoencoderKLLTXVideo, clips: Tensor) -> None:
    """Write the mean and the standard deviation of each latent channel, over its weight, into the buffers."""
    latents = torch.cat([posterior(autoencoder, to_model(batch)).mode() for batch in clips.split(8)])
    probe = posterior(autoencoder, to_model(clips[:: max(1, len(clips) // 8)][:8])).mode()
    autoencoder.latents_mean.copy_(latents.mean(dim=(0, 2, 3, 4)))
    autoencoder.latents_std.copy_(latents.std(dim=(0, 2, 3, 4)) / channel_weights(autoencoder, probe))


@torch.no_grad()
def channel_weights(autoencoder: AutoencoderKLLTXVideo, latents: Tensor) -> Tensor:
    """How far each channel of the normalised latents spreads, (C,): by how much of the picture it carries.

        w_k = min(2.5, sqrt(e_k^0.75 / mean_j e_j^0.75)),    e_k: mean squared change of the pixels without channel k

    The encoder gives every channel variance 1, and the pixels that channels carry differ a thousandfold: a model that
    denoises them all alike spends itself on what nobody sees.
    """
    rebuilt = cast(Any, autoencoder.decode(latents)).sample
    mean = latents.mean(dim=(0, 2, 3, 4))
    effects = []
    for channel in tqdm(range(latents.shape[1]), desc="what each latent channel carries"):
        without = latents.clone()
        without[:, channel] = mean[channel]
        effects.append((cast(Any, autoencoder.decode(without)).sample - rebuilt).square().mean())
    share = torch.stack(effects) ** 0.75
    return (share / share.mean()).sqrt().clamp(max=2.5)


def train(options: argparse.Namespace) -> AutoencoderKLLTXVideo:
    """Train from scratch or from the last checkpoint; returns the exponential moving average of the weights."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.num_threads)
    generator = torch.Generator().manual_seed(options.seed)
    clips, checked = load_clips(options.data), load_clips([options.validation], limit=32)
    autoencoder = build_autoencoder()
    start_linear(autoencoder, to_model(clips[:: max(1, len(clips) // 150)][:150]))
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=options.learning_rate, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine_with_warmup(options.max_steps, 100))
    ema = Ema(autoencoder, decay=0.995)
    state = {"model": autoencoder, "optimizer": optimizer, "schedule": schedule, "ema": ema}
    output = Path(options.output_dir)
    start = load_checkpoint(output, state, generator)
    progress = tqdm(range(start, options.max_steps), initial=start, total=options.max_steps, desc="autoencoder")
    for step in progress:
        index = torch.randint(len(clips), (options.batch_size,), generator=generator)
        frames = options.short_frames if step < options.short_share * options.max_steps else options.clip_frames
        first = int(torch.randint(clips.shape[1] - frames + 1, (), generator=generator))
        x = to_model(clips[index, first : first + frames])
        if torch.rand((), generator=generator) < 0.5:
            x = x.flip(-1)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            q = posterior(autoencoder, x)
            rebuilt = cast(Any, autoencoder.decode(q.sample(generator))).sample
        kl = q.kl().mean() / q.mean[0].numel()
        loss = reconstruction_loss(rebuilt, x, options.motion_weight) + options.kl_weight * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update(autoencoder)
        if step % 50 == 0:
            psnr = psnr_db(rebuilt.detach(), x).mean()
            progress.set_postfix(loss=f"{loss.item():.4f}", psnr=f"{psnr:.2f}", kl=f"{kl.item():.2f}")
        if (step + 1) % options.save_steps == 0 or step + 1 == options.max_steps:
            save_checkpoint(output, step + 1, state, generator)
            averaged = ema.copy_to(build_autoencoder())
            tqdm.write(f"step {step + 1}: held-out PSNR {reconstruction_psnr_db(averaged, checked):.2f} dB")
    autoencoder = ema.copy_to(build_autoencoder()).eval()
    measure_latents(autoencoder, clips[:: max(1, len(clips) // 256)])
    return autoencoder


def main(arguments: list[str] | None = None) -> None:
    """Train and save the autoencoder in the layout of diffusers, with `training.json` beside it."""
    parser = pretraining_parser("autoencoder", __doc__, steps=2400, batch_size=8, learning_rate=3e-4)
    add = parser.add_argument
    add("--clip_frames", type=int, default=9, help="consecutive frames of a training clip (default: %(default)s)")
    add("--short_share", type=float, default=0.7, help="share of steps on short clips (default: %(default)s)")
    add("--short_frames", type=int, default=5, help="frames of the short clips (default: %(default)s)")
    add("--motion_weight", type=float, default=3.0, help="extra weight of moving pixels (default: %(default)s)")
    add("--kl_weight", type=float, default=1e-5, help="weight of the KL term (default: %(default)s)")
    options = parser.parse_args(arguments)
    autoencoder = train(options)
    quality = {"validation_psnr_db": reconstruction_psnr_db(autoencoder, load_clips([options.validation]))}
    autoencoder.save_pretrained(options.output_dir)
    text = json.dumps(provenance(options, quality), indent=2)
    (Path(options.output_dir) / "training.json").write_text(text + "\n")
    assert math.isfinite(quality["validation_psnr_db"])
    print(f"validation PSNR {quality['validation_psnr_db']:.2f} dB; saved in {options.output_dir}")


if __name__ == "__main__":
    main()

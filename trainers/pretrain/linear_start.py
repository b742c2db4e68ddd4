"""Start an `AutoencoderKLLTXVideo` at the principal components of its training clips instead of at random.

From random weights this class needs thousands of steps before it knows colours: it normalises features at every place,
and its bottleneck begins as a random projection. Here each convolution of the main path begins as a linear map with one
spatial tap, and every residual branch at zero:

    patch 8 x 8 x 3 -> 96 components -> (2 x 2 x 2 of them) -> whitened components = latent -> the same way back.

A constant `OFFSET` added to every channel keeps the normalisations and SiLUs near their linear range; what is left of
their curvature is fitted away by least squares in the two output convolutions.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from diffusers import AutoencoderKLLTXVideo
from torch import Tensor

OFFSET = 4.0


@torch.no_grad()
def start_linear(autoencoder: AutoencoderKLLTXVideo, clips_NCTHW: Tensor) -> None:
    """Set the weights of an autoencoder with one halving of space and time from clips in [-1, 1], T odd."""
    encoder, decoder = cast(Any, autoencoder.encoder), cast(Any, autoencoder.decoder)
    for name, parameter in autoencoder.named_parameters():
        if "resnets" in name and "conv2" in name:
            parameter.zero_()
    patches = patchify(clips_NCTHW, autoencoder.config["patch_size"])
    width, latent = encoder.conv_in.conv.out_channels, autoencoder.config["latent_channels"]

    mean, basis, variance = principal_components(patches.movedim(1, -1).flatten(0, -2), width)
    set_tap(encoder.conv_in, 2, basis.T, -basis.T @ mean)
    features = torch.einsum("pc,bpthw->bcthw", basis, patches - mean.view(1, -1, 1, 1, 1))

    blocks = eighths(features)
    block_mean, block_basis, block_variance = principal_components(blocks.movedim(1, -1).flatten(0, -2), latent)
    whiten = (block_basis / block_variance.sqrt()).T
    down = encoder.down_blocks[0].downsamplers[0]
    taps = whiten.unflatten(1, (2, 2, 2, width))
    down.conv.weight.zero_()
    down.conv.weight[:latent, :, 1:, 1:, 1:] = taps.permute(0, 4, 1, 2, 3)
    down.conv.bias.fill_(OFFSET)
    down.conv.bias[:latent] -= whiten @ block_mean
    target = torch.einsum("lf,bfthw->blthw", whiten, blocks - block_mean.view(1, -1, 1, 1, 1))
    hidden = encoder.mid_block(encoder.down_blocks[1](down_path(encoder, clips_NCTHW)))
    fit_output(encoder, hidden[:, :, 1:], target, 2)
    encoder.conv_out.conv.bias[-1] = -7

    set_tap(decoder.conv_in, 1, torch.eye(width, latent), torch.zeros(width))
    gain = variance.clamp(min=1).rsqrt()
    back = (block_basis * block_variance.sqrt()).unflatten(0, (2, 2, 2, width)) * gain.view(1, 1, 1, -1, 1)
    offset = block_mean.unflatten(0, (2, 2, 2, width)) * gain + OFFSET
    up = next(block.upsamplers[0] for block in decoder.up_blocks if block.upsamplers is not None)
    weight = torch.zeros(8 * width, width)
    weight[:, :latent] = back.permute(3, 0, 1, 2, 4).flatten(0, 3)
    set_tap(up.conv, 1, weight, offset.permute(3, 0, 1, 2).flatten())
    hidden = decoder.conv_in(cast(Any, autoencoder.encode(clips_NCTHW)).latent_dist.mean)
    for block in (decoder.mid_block, *decoder.up_blocks):
        hidden = block(hidden)
    fit_output(decoder, hidden, unpatch_order(patches, autoencoder.config["patch_size"]), 1)


def down_path(encoder: Any, clips: Tensor) -> Tensor:
    """The encoder up to and with its first block."""
    return encoder.down_blocks[0](encoder.conv_in(patchify(clips, encoder.patch_size)))


def patchify(clips: Tensor, p: int) -> Tensor:
    """(B, C, T, H, W) -> (B, C p p, T, H/p, W/p) in the encoder's order: colour, column, row."""
    b, c, t, h, w = clips.shape
    return clips.reshape(b, c, t, h // p, p, w // p, p).permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)


def unpatch_order(patches: Tensor, p: int) -> Tensor:
    """The same patches in the order of the decoder's output channels, which is colour, column, row too."""
    return patches.unflatten(1, (-1, p, p)).flatten(1, 3)


def eighths(features: Tensor) -> Tensor:
    """Stack each 2 x 2 x 2 neighbourhood, frames (1, 2), (3, 4), ...: (B, W, T, h, w) -> (B, 8 W, T//2, h/2, w/2)."""
    b, width, t, h, w = features[:, :, 1:].shape
    split = features[:, :, 1:].reshape(b, width, t // 2, 2, h // 2, 2, w // 2, 2)
    return split.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(1, 4)


def principal_components(samples: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), the `count` leading directions (D, count) and their variances."""
    samples = samples[:: max(1, len(samples) // 40_000)]
    variance, directions = torch.linalg.eigh(torch.cov(samples.T))
    return samples.mean(0), directions.flip(1)[:, :count], variance.flip(0)[:count].clamp(min=1e-6)


def set_tap(layer: Any, frame: int, matrix: Tensor, bias: Tensor) -> None:
    """Make a 3 x 3 x 3 convolution the matrix at its tap (frame, centre, centre) and almost nothing elsewhere."""
    layer.conv.weight.mul_(0.01)
    layer.conv.weight[:, :, frame, 1, 1] = matrix
    layer.conv.bias.copy_(bias)


def fit_output(part: Any, hidden: Tensor, target: Tensor, frame: int) -> None:
    """Fit a part's output convolution, at one tap, so that conv(silu(norm(hidden))) is closest to the target."""
    active = part.conv_act(part.norm_out(hidden.movedim(1, -1))).flatten(0, -2)
    active = torch.cat([active, torch.ones(len(active), 1)], dim=1)
    wanted = target.movedim(1, -1).flatten(0, -2)
    ridge = 1e-6 * len(active) * torch.eye(active.shape[1])
    solution = torch.linalg.solve(active.T @ active + ridge, active.T @ wanted)
    extra = part.conv_out.conv.out_channels - wanted.shape[1]
    matrix = torch.cat([solution[:-1].T, torch.zeros(extra, active.shape[1] - 1)])
    part.conv_out.conv.weight.zero_()
    set_tap(part.conv_out, frame, matrix, torch.cat([solution[-1], torch.zeros(extra)]))

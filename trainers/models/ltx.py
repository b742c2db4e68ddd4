"""LTX-Video: text- and image-to-video over the stock transformer, autoencoder, text encoder and scheduler.

Latents are packed tokens_BND, N = latent frames * rows * columns in that order, as the stock pipelines keep them.
In image-to-video the first latent frame stays clean at timestep 0, given to the network as per-token timesteps.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTXPipeline
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from trainers.models.base import Condition, Generators, Schedule
from trainers.models.pieces import blocks_checkpointed, tiled, tiles_checkpointed
from trainers.models.stock import StockModel, Text


class LTXModel(StockModel):
    """Video models of the LTX family."""

    trims_text = True
    decodes_tiles = True

    def __init__(self, pipeline: LTXPipeline) -> None:
        super().__init__(pipeline)
        if self.transformer.config["patch_size"] != 1 or self.transformer.config["patch_size_t"] != 1:
            raise ValueError("the LTX transformer must have patch_size 1: the stock pipelines sample no other")
        if self.vae.config["timestep_conditioning"]:
            raise ValueError("LTX autoencoders that take a decode timestep are not supported: use the 0.9.0 layout")
        if self.scheduler.config["stochastic_sampling"] or self.scheduler.config["invert_sigmas"]:
            raise ValueError("the LTX scheduler must be the deterministic Euler one: set stochastic_sampling to false")

    def _multiples(self) -> tuple[int, int]:
        # The stock pipelines refuse sizes that are no multiple of 32.
        return max(self.vae.spatial_compression_ratio, 32), self.vae.temporal_compression_ratio

    @property
    def text_shape(self) -> tuple[int, int]:
        return 128, self.transformer.config["caption_channels"]

    def _encode_texts(self, texts: list[str]) -> Text:
        features, mask, *_ = self.pipeline.encode_prompt(texts, do_classifier_free_guidance=False, device=self.device)
        return features, mask

    @torch.no_grad()
    def encode_clip(self, frames_BTCHW: Tensor, generators: Generators = None) -> Tensor:
        latents = self._drawn(frames_BTCHW, generators)
        mean, std = self.vae.latents_mean, self.vae.latents_std
        return _pack(LTXPipeline._normalize_latents(latents, mean, std))

    def _encode_first(self, frames_BCHW: Tensor, num_frames: int, generators: Generators) -> dict[str, Any]:
        return {"first_latents": self.encode_clip(frames_BCHW[:, None], generators)}

    def initial_latents(self, condition: Condition, generators: Generators) -> Tensor:
        shape = (condition.batch_size, self.transformer.config["in_channels"], *self._latent_size(condition))
        noise = randn_tensor(shape, generator=generators, device=self.device, dtype=self.latent_dtype)
        return self.pin(_pack(noise), condition)

    def schedule(self, num_steps: int, condition: Condition) -> Schedule:
        frames, rows, columns = self._latent_size(condition)
        config = self.scheduler.config
        shift = calculate_shift(
            frames * rows * columns,
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(config)
        even = torch.linspace(1.0, 1 / num_steps, num_steps, dtype=torch.float64).numpy()
        scheduler.set_timesteps(num_steps, sigmas=even, mu=shift)
        return Schedule(sigmas=scheduler.sigmas, timesteps_S=scheduler.timesteps)

    def _evaluate(self, latents: Tensor, sigma_B: Tensor, condition: Condition) -> Tensor:
        frames, rows, columns = self._latent_size(condition)
        timestep = sigma_B.to(torch.float32) * self.scheduler.config["num_train_timesteps"]
        if condition.first_latents is not None:
            timestep = timestep[:, None] * self.free_mask(condition)[..., 0]
        seconds_per_latent = self.vae.temporal_compression_ratio / condition.fps_B[:, None, None, None, None]
        space = self.vae.spatial_compression_ratio
        return self.denoiser(
            hidden_states=latents.to(condition.prompt_BLD.dtype),
            encoder_hidden_states=condition.prompt_BLD,
            timestep=timestep,
            encoder_attention_mask=condition.prompt_mask_BL,
            num_frames=frames,
            height=rows,
            width=columns,
            rope_interpolation_scale=(seconds_per_latent, space, space),
            return_dict=False,
        )[0].to(latents.dtype)

    def pin(self, latents: Tensor, condition: Condition) -> Tensor:
        if condition.first_latents is None:
            return latents
        first = condition.first_latents.to(latents.dtype)
        return torch.cat([first, latents[:, first.shape[1] :]], dim=1)

    def free_mask(self, condition: Condition) -> Tensor:
        frames, rows, columns = self._latent_size(condition)
        mask = torch.ones(1, frames * rows * columns, 1, device=self.device, dtype=torch.float32)
        if condition.first_latents is not None:
            mask[:, : rows * columns] = 0
        return mask

    def decode(self, latents: Tensor, condition: Condition, *, checkpointing: bool = False) -> Tensor:
        unpacked = latents.unflatten(1, self._latent_size(condition)).movedim(-1, 1)
        mean, std, scale = self.vae.latents_mean, self.vae.latents_std, self.vae.config["scaling_factor"]
        unpacked = LTXPipeline._denormalize_latents(unpacked, mean, std, scale)
        checkpointed = tiles_checkpointed if self.decode_tile_px else blocks_checkpointed
        with checkpointed(self.vae.decoder, checkpointing), tiled(self.vae, self.decode_tile_px):
            frames = self.vae.decode(unpacked.to(self.vae.dtype), None, return_dict=False)[0]
        return (frames.to(latents.dtype) * 0.5 + 0.5).movedim(1, 2)


def _pack(latents_BCFHW: Tensor) -> Tensor:
    """(B, C, F, H, W) -> tokens (B, F * H * W, C)."""
    return latents_BCFHW.flatten(2).transpose(1, 2)

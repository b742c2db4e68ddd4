"""HunyuanVideo: text- and image-to-video over the stock transformer, autoencoder, two text encoders and scheduler.

Latents are (B, C, F, H, W). Guidance is distilled: the network is given its scale, and no unguided branch is evaluated.
Image-to-video comes in two layouts, distinguished by the transformer's `image_condition_type`:

    token_replace   the first latent frame stays clean
    latent_concat   mask and latents of the first frame concatenated as channels; a latent frame more than the clip has

In both a language model with eyes reads prompt and first frame together, and a little of the frame is mixed into the
noise. Axes: B clips, C channels, F latent frames, T frames, H rows, W columns, L text tokens, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from trainers.models.base import Condition, Generators, Schedule
from trainers.models.pieces import blocks_checkpointed, tiled, tiles_checkpointed
from trainers.models.stock import StockModel, Text, pictures

FRAME_IN_NOISE = 0.001


class HunyuanVideoModel(StockModel):
    """Video models of the HunyuanVideo family."""

    has_negative_branch = False
    decodes_tiles = True

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self.layout = self.transformer.config["image_condition_type"]
        self.scale, self.channels = self.vae.config["scaling_factor"], self.vae.config["latent_channels"]
        if self.scheduler.config["stochastic_sampling"] or self.scheduler.config["invert_sigmas"]:
            raise ValueError(
                "the HunyuanVideo scheduler must be a deterministic Euler: set stochastic_sampling to false"
            )

    def _multiples(self) -> tuple[int, int]:
        patch = self.transformer.config["patch_size"]
        return max(16, self.vae.spatial_compression_ratio * patch), self.vae.temporal_compression_ratio

    def check_mode(self, with_image: bool) -> None:
        if self.layout is not None and not with_image:
            raise ValueError(
                "this HunyuanVideo is image-to-video and needs a first frame: set image_conditioning to true"
            )
        if self.layout is None and with_image:
            raise ValueError("this HunyuanVideo is text-to-video alone: set image_conditioning to false")

    def condition(self, prompts: Sequence[str], *, guidance_scale: float = 1.0, **options: Any) -> Condition:
        if guidance_scale > 1 and not self.transformer.config["guidance_embeds"]:
            raise ValueError(
                f"this HunyuanVideo is told no guidance, got guidance_scale {guidance_scale:g}: set it to 1"
            )
        if options.get("negative_prompt"):
            raise ValueError(
                f"this HunyuanVideo has no unguided branch, got negative_prompt {options['negative_prompt']!r}: "
                "leave it empty"
            )
        return super().condition(prompts, guidance_scale=guidance_scale, **options)

    def _latent_size(self, condition: Condition) -> tuple[int, int, int]:
        frames, rows, columns = super()._latent_size(condition)
        return frames + (self.layout == "latent_concat"), rows, columns

    @property
    def text_shape(self) -> tuple[int, int]:
        return 256, self.transformer.config["text_embed_dim"]

    def _encode_texts(self, texts: list[str]) -> Text:
        features, pooled, mask = self.pipeline.encode_prompt(prompt=texts, device=self.device)
        return features, mask, pooled

    @torch.no_grad()
    def read(self, prompts: Sequence[str], first_frames_BCHW: Tensor | None) -> Text:
        if first_frames_BCHW is None:
            return self.encode_prompt(prompts)
        encodings = []
        interleave = 2 if self.layout == "latent_concat" else 4
        with self._encoders_at_hand():
            for prompt, picture in zip(prompts, pictures(first_frames_BCHW), strict=True):
                features, pooled, mask = self.pipeline.encode_prompt(
                    image=picture, prompt=prompt, device=self.device, image_embed_interleave=interleave
                )
                encodings.append((features, mask, pooled))
        return tuple(torch.cat(parts) for parts in zip(*encodings, strict=True))

    @torch.no_grad()
    def encode_clip(self, frames_BTCHW: Tensor, generators: Generators = None) -> Tensor:
        latents = self._drawn(frames_BTCHW, generators) * self.scale
        return torch.cat([latents[:, :, :1], latents], dim=2) if self.layout == "latent_concat" else latents

    @torch.no_grad()
    def _encode_first(self, frames_BCHW: Tensor, num_frames: int, generators: Generators) -> dict[str, Any]:
        """The stock pipeline takes the posterior's mode here whatever generators it is given."""
        return {"first_latents": self._drawn(frames_BCHW[:, None], None) * self.scale}

    def initial_latents(self, condition: Condition, generators: Generators) -> Tensor:
        shape = (condition.batch_size, self.channels, *self._latent_size(condition))
        noise = randn_tensor(shape, generator=generators, device=self.device, dtype=self.latent_dtype)
        if condition.first_latents is not None:
            noise = (1 - FRAME_IN_NOISE) * noise + FRAME_IN_NOISE * condition.first_latents.to(noise)
        return self.pin(noise, condition)

    def schedule(self, num_steps: int, condition: Condition) -> Schedule:
        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(num_steps, sigmas=np.linspace(1.0, 0.0, num_steps + 1)[:-1])
        return Schedule(sigmas=scheduler.sigmas, timesteps_S=scheduler.timesteps)

    def _evaluate(self, latents: Tensor, sigma_B: Tensor, condition: Condition) -> Tensor:
        dtype, inputs = self.dtype, self.pin(latents, condition)
        if self.layout == "latent_concat":
            assert condition.first_latents is not None
            given = latents.new_zeros(len(latents), self.channels + 1, *latents.shape[2:])
            given[:, :-1, :1] = condition.first_latents.to(latents)
            given[:, -1, 0] = 1
            inputs = torch.cat([inputs, given], dim=1)
        guidance = None
        if self.transformer.config["guidance_embeds"]:
            guidance = torch.full_like(sigma_B, condition.guidance_scale, dtype=dtype) * 1000.0
        assert condition.pooled_BD is not None
        return self.denoiser(
            hidden_states=inputs.to(dtype),
            timestep=sigma_B.to(latents.dtype) * self.scheduler.config["num_train_timesteps"],
            encoder_hidden_states=condition.prompt_BLD.to(dtype),
            encoder_attention_mask=condition.prompt_mask_BL.to(dtype),
            pooled_projections=condition.pooled_BD.to(dtype),
            guidance=guidance,
            return_dict=False,
        )[0].to(latents.dtype)

    def pin(self, latents: Tensor, condition: Condition) -> Tensor:
        if condition.first_latents is None or self.layout != "token_replace":
            return latents
        return torch.cat([condition.first_latents.to(latents.dtype), latents[:, :, 1:]], dim=2)

    def free_mask(self, condition: Condition) -> Tensor:
        mask = torch.ones(1, 1, *self._latent_size(condition), device=self.device, dtype=torch.float32)
        if self.layout == "token_replace":
            mask[:, :, 0] = 0
        return mask

    def decode(self, latents: Tensor, condition: Condition, *, checkpointing: bool = False) -> Tensor:
        in_tiles = self.decode_tile_px or condition.num_frames > self.vae.tile_sample_min_num_frames
        checkpointed = tiles_checkpointed if in_tiles else blocks_checkpointed  # the stock decodes long clips in tiles
        with checkpointed(self.vae.decoder, checkpointing), tiled(self.vae, self.decode_tile_px):
            frames = self.vae.decode((latents / self.scale).to(self.vae.dtype), return_dict=False)[0]
        frames = frames[:, :, -condition.num_frames :]
        return (frames.to(latents.dtype) * 0.5 + 0.5).movedim(1, 2)

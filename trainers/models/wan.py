"""Wan 2.1 and 2.2: text- and image-to-video over the stock transformers, causal autoencoder and schedulers.

Latents are (B, C, F, H, W). Four layouts share these classes, distinguished by what their configs hold:

    2.1 and 2.2 text-to-video     nothing but text; 2.2 A14B with two experts
    2.1 and 2.2 image-to-video    mask and latents of the first frame concatenated as channels; 2.1 image features too
    2.2 TI2V-5B                   the first latent frame stays clean at timestep 0, by per-token timesteps

A14B has one expert at noise levels from `boundary_ratio` up and another below, and a LoRA for each.
Axes: B clips, C channels, F latent frames, T frames, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from trainers.models.base import Condition, Generators, Schedule
from trainers.models.pieces import blocks_checkpointed, in_chunks
from trainers.models.stock import StatefulSchedule, StockModel, Text, pictures

TEXT_LENGTH = 512  # as the stock pipelines call their encoder; the padding is attended to
IMAGE_TOKENS = 257  # of the stock image encoder: 16 x 16 patches and the whole


class Experts(nn.Module):
    """Two transformers of one shape; each clip goes to the one that its timestep belongs to."""

    def __init__(self, high: Any, low: Any, boundary: float) -> None:
        super().__init__()
        self.transformer, self.transformer_2, self.boundary = high, low, boundary

    def forward(self, *, timestep: Tensor, **inputs: Any) -> tuple[Tensor]:
        high_B = timestep >= self.boundary
        if high_B.all() or not high_B.any():
            expert = self.transformer if high_B.all() else self.transformer_2
            return expert(timestep=timestep, **inputs)
        parts, places = [], []
        for expert, chosen_B in ((self.transformer, high_B), (self.transformer_2, ~high_B)):
            expert_inputs = {
                name: value[chosen_B] if isinstance(value, Tensor) else value for name, value in inputs.items()
            }
            parts.append(expert(timestep=timestep[chosen_B], **expert_inputs)[0])
            places.append(chosen_B.nonzero()[:, 0])
        return (torch.cat(parts)[torch.cat(places).argsort()],)


class WanModel(StockModel):
    """Video models of the Wan family."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        ratio = pipeline.config.get("boundary_ratio")
        self.per_token = bool(pipeline.config.get("expand_timesteps"))
        self.train_steps = self.scheduler.config["num_train_timesteps"]
        self.concatenates = pipeline.transformer.config["in_channels"] != self.vae.config["z_dim"]
        needs = {
            "transformer_2": ratio is not None,
            "image_encoder": pipeline.transformer.config["image_dim"] is not None,
        }
        for name, needed in needs.items():
            if needed and getattr(pipeline, name, None) is None:
                raise ValueError(f"this Wan model needs {name}, which its pipeline has not: copy or download all of it")
        if ratio is not None:
            self.transformer = Experts(pipeline.transformer, pipeline.transformer_2, ratio * self.train_steps)
            self.denoiser = self.transformer
        config = self.scheduler.config
        euler = isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler) and not config["stochastic_sampling"]
        unipc = isinstance(self.scheduler, UniPCMultistepScheduler) and config["use_flow_sigmas"]
        if not euler and not (unipc and config["prediction_type"] == "flow_prediction"):
            raise ValueError(
                "the Wan scheduler must be a deterministic FlowMatchEulerDiscreteScheduler or UniPCMultistepScheduler "
                f"with flow sigmas and flow_prediction, got {type(self.scheduler).__name__}: set it in the pipeline"
            )

    @property
    def networks(self) -> dict[str, Any]:
        if not isinstance(self.transformer, Experts):
            return super().networks
        high, low = self.transformer.transformer, self.transformer.transformer_2
        return {"pytorch_lora_weights.safetensors": high, "pytorch_lora_weights_2.safetensors": low}

    def network_at(self, sigma: float) -> str:
        high, *low = self.networks
        if not isinstance(self.transformer, Experts):
            return high
        return high if self._timestep(torch.tensor(sigma)) >= self.transformer.boundary else low[0]

    def _timestep(self, sigma_B: Tensor) -> Tensor:
        """What the network is told of a noise level; UniPC tells it whole timesteps."""
        timestep = sigma_B.double() * self.train_steps
        return (timestep.floor() if isinstance(self.scheduler, UniPCMultistepScheduler) else timestep).float()

    def _multiples(self) -> tuple[int, int]:
        patch = self.pipeline.transformer.config["patch_size"][1]
        return max(16, self.vae.spatial_compression_ratio * patch), self.vae.config["scale_factor_temporal"]

    def check_mode(self, with_image: bool) -> None:
        if self.concatenates and not with_image:
            raise ValueError("this Wan model is image-to-video and needs a first frame: set image_conditioning to true")
        if with_image and not (self.concatenates or self.per_token):
            raise ValueError("this Wan model is text-to-video alone: set image_conditioning to false")

    def _latent_size(self, condition: Condition) -> tuple[int, int, int]:
        space, time = self.vae.spatial_compression_ratio, self.vae.config["scale_factor_temporal"]
        return (condition.num_frames - 1) // time + 1, condition.height_px // space, condition.width_px // space

    @property
    def text_shape(self) -> tuple[int, int]:
        return TEXT_LENGTH, self.pipeline.transformer.config["text_dim"]

    def _encode_texts(self, texts: list[str]) -> Text:
        # The method of the text pipeline: the image pipeline's copy of it fails where ftfy is not installed.
        encode = WanPipeline._get_t5_prompt_embeds
        features = encode(self.pipeline, texts, max_sequence_length=TEXT_LENGTH, device=self.device)
        return features, torch.ones(features.shape[:2], device=features.device)

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        statistics = (self.vae.config["latents_mean"], self.vae.config["latents_std"])
        mean, std = (torch.tensor(statistic).view(1, -1, 1, 1, 1).to(latents) for statistic in statistics)
        return mean, std

    @torch.no_grad()
    def encode_clip(self, frames_BTCHW: Tensor, generators: Generators = None) -> Tensor:
        latents = self._drawn(frames_BTCHW, generators)
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    @torch.no_grad()
    def _encode_first(self, frames_BCHW: Tensor, num_frames: int, generators: Generators) -> dict[str, Any]:
        """The stock pipelines take the posterior's mode here whatever generators they are given."""
        if self.per_token:
            return {"first_latents": self.encode_clip(frames_BCHW[:, None])}
        grey = torch.full_like(frames_BCHW, 0.5)[:, None].expand(-1, num_frames - 1, -1, -1, -1)
        latents = self.encode_clip(torch.cat([frames_BCHW[:, None], grey], dim=1))
        given = latents.new_zeros(len(latents), self.vae.config["scale_factor_temporal"], *latents.shape[2:])
        given[:, :, 0] = 1
        fields: dict[str, Any] = {"first_latents": torch.cat([given, latents], dim=1)}
        if self.pipeline.transformer.config["image_dim"] is not None:
            fields["image_BLD"] = self._read_image(frames_BCHW)
        return fields

    def _read_image(self, frames_BCHW: Tensor) -> Tensor:
        if frames_BCHW.is_meta:  # as for a plan of memory, which has no image encoder either
            return frames_BCHW.new_zeros(len(frames_BCHW), IMAGE_TOKENS, self.pipeline.transformer.config["image_dim"])
        return self.pipeline.encode_image(pictures(frames_BCHW), self.device)

    def initial_latents(self, condition: Condition, generators: Generators) -> Tensor:
        shape = (condition.batch_size, self.vae.config["z_dim"], *self._latent_size(condition))
        noise = randn_tensor(shape, generator=generators, device=self.device, dtype=self.latent_dtype)
        return self.pin(noise, condition)

    def schedule(self, num_steps: int, condition: Condition) -> Schedule:
        scheduler: Any = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(num_steps)
        scheduler.set_begin_index(0)
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            euler: Any = scheduler
            return Schedule(sigmas=euler.sigmas, timesteps_S=euler.timesteps)
        # UniPC gives the network whole timesteps; these sigmas are its own, moved by less than float32's rounding error
        # so that `predict`, which knows sigma alone, rounds them as it does.
        low = scheduler.timesteps.double() / self.train_steps
        sigmas = scheduler.sigmas.double()
        near = sigmas[:-1].clamp(min=low + 1e-9, max=low + 1 / self.train_steps - 1e-9)
        sigmas = torch.cat([near, sigmas[-1:]])
        return StatefulSchedule(sigmas=sigmas, timesteps_S=scheduler.timesteps, scheduler=scheduler)

    def _evaluate(self, latents: Tensor, sigma_B: Tensor, condition: Condition) -> Tensor:
        timestep, inputs = self._timestep(sigma_B), latents
        if self.per_token:
            inputs = self.pin(latents, condition)
            rows, columns = self.pipeline.transformer.config["patch_size"][1:]
            timestep = timestep[:, None] * self.free_mask(condition)[0, 0, :, ::rows, ::columns].flatten()
        elif condition.first_latents is not None:
            inputs = torch.cat([latents, condition.first_latents.to(latents)], dim=1)
        dtype = self.dtype
        image = condition.image_BLD
        prediction = self.denoiser(
            hidden_states=inputs.to(dtype),
            timestep=timestep,
            encoder_hidden_states=condition.prompt_BLD.to(dtype),
            encoder_hidden_states_image=None if image is None else image.to(dtype),
            return_dict=False,
        )[0]
        return prediction.to(latents.dtype)

    def pin(self, latents: Tensor, condition: Condition) -> Tensor:
        if condition.first_latents is None or not self.per_token:
            return latents
        return torch.cat([condition.first_latents.to(latents.dtype), latents[:, :, 1:]], dim=2)

    def free_mask(self, condition: Condition) -> Tensor:
        mask = torch.ones(1, 1, *self._latent_size(condition), device=self.device, dtype=torch.float32)
        if condition.first_latents is not None and self.per_token:
            mask[:, :, 0] = 0
        return mask

    def first_latents(self, latents: Tensor, condition: Condition, num_frames: int) -> tuple[Tensor, Condition]:
        time = self.vae.config["scale_factor_temporal"]
        frames = math.ceil((num_frames - 1) / time) + 1
        return latents[:, :, :frames], dataclasses.replace(condition, num_frames=1 + (frames - 1) * time)

    def decode(self, latents: Tensor, condition: Condition, *, checkpointing: bool = False) -> Tensor:
        """The stock decoder's own loop over latent frames, its feature caches passed along instead of kept in it."""
        mean, std = self._statistics(latents)
        pieces = self.vae.post_quant_conv((latents * std + mean).to(self.vae.dtype)).split(1, dim=2)
        slots = self.vae._cached_conv_counts["decoder"]

        def decode_chunk(piece: Tensor, caches: list[Any] | None) -> tuple[Tensor, list[Any]]:
            after = [None] * slots if caches is None else list(caches)
            with blocks_checkpointed(self.vae.decoder, checkpointing):
                return self.vae.decoder(piece, feat_cache=after, feat_idx=[0], first_chunk=caches is None), after

        frames = in_chunks(decode_chunk, pieces, checkpointing=checkpointing)
        frames = unpatched(frames, self.vae.config["patch_size"] or 1)
        return (frames.to(latents.dtype) * 0.5 + 0.5).movedim(1, 2)


def unpatched(frames: Tensor, patch: int) -> Tensor:
    """(B, C * patch * patch, T, H, W) -> (B, C, T, H * patch, W * patch), columns before rows among the channels."""
    if patch == 1:
        return frames
    channels = frames.shape[1] // math.prod((patch, patch))
    return frames.unflatten(1, (channels, patch, patch)).permute(0, 1, 4, 5, 3, 6, 2).flatten(5, 6).flatten(3, 4)

"""CogVideoX 1.0 and 1.5: text- and image-to-video over the stock transformer, autoencoder and schedulers.

Latents are (B, F, C, H, W). The network lives on a circle: y = a x_0 + s noise with a^2 + s^2 = 1, and predicts
a noise - s x_0. To the interface it is a straight flow like the others: sigma = s / (a + s), x = y / (a + s),
v = noise - x_0, and a DDIM step is an Euler step. A noise level means the same signal-to-noise ratio in every family.
Rollouts are DDIM's also where the pipeline names the stochastic DPM scheduler. In image-to-video the latents of the
first frame are concatenated as channels.
Axes: B clips, C channels, F latent frames, T frames, H rows, W columns, S steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from trainers.models.base import Condition, Generators, Schedule
from trainers.models.pieces import blocks_checkpointed, in_chunks
from trainers.models.stock import StockModel, Text, like


@dataclasses.dataclass(frozen=True, kw_only=True)
class CircleSchedule(Schedule):
    """A schedule whose step i ends at `ends_S[i]`, which the stock's rounding parts from the next step's start."""

    ends_S: Tensor


class CogVideoXModel(StockModel):
    """Video models of the CogVideoX family."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        config = self.scheduler.config
        if config.get("prediction_type") != "v_prediction":
            raise ValueError(
                f"the CogVideoX scheduler must have prediction_type v_prediction, got {config.get('prediction_type')}"
            )
        self.scheduler = CogVideoXDDIMScheduler.from_config(config)
        a, s = self.scheduler.alphas_cumprod.double().sqrt(), (1 - self.scheduler.alphas_cumprod.double()).sqrt()
        self.sigma_of_timestep = s / (a + s)
        self.channels = self.vae.config["latent_channels"]
        self.concatenates = self.transformer.config["in_channels"] == 2 * self.channels
        self.patch_frames = self.transformer.config["patch_size_t"] or 1
        self.scale = self.vae.config["scaling_factor"]

    def _multiples(self) -> tuple[int, int]:
        """The autoencoder makes 1 + 4 k frames of 1 + k latents only where k is a multiple of its batch of latents."""
        space = self.pipeline.vae_scale_factor_spatial * self.transformer.config["patch_size"]
        return space, self.pipeline.vae_scale_factor_temporal * self.vae.num_latent_frames_batch_size

    def check_mode(self, with_image: bool) -> None:
        if self.concatenates and not with_image:
            raise ValueError("this CogVideoX is image-to-video and needs a first frame: set image_conditioning to true")
        if with_image and not self.concatenates:
            raise ValueError("this CogVideoX is text-to-video alone: set image_conditioning to false")

    def _latent_size(self, condition: Condition) -> tuple[int, int, int]:
        """With the frames that CogVideoX 1.5 puts in front, so that its patches of time come out even."""
        space, time = self.pipeline.vae_scale_factor_spatial, self.pipeline.vae_scale_factor_temporal
        frames = (condition.num_frames - 1) // time + 1
        frames += -frames % self.patch_frames
        return frames, condition.height_px // space, condition.width_px // space

    @property
    def text_shape(self) -> tuple[int, int]:
        return self.transformer.config["max_text_seq_length"], self.transformer.config["text_embed_dim"]

    def _encode_texts(self, texts: list[str]) -> Text:
        length = self.text_shape[0]
        features = self.pipeline.encode_prompt(
            texts, do_classifier_free_guidance=False, max_sequence_length=length, device=self.device
        )[0]
        return features, torch.ones(features.shape[:2], device=features.device)

    @torch.no_grad()
    def encode_clip(self, frames_BTCHW: Tensor, generators: Generators = None) -> Tensor:
        latents = self._drawn(frames_BTCHW, generators).movedim(2, 1) * self.scale
        padding = latents[:, :1].expand(-1, -latents.shape[1] % self.patch_frames, -1, -1, -1)
        return torch.cat([padding, latents], dim=1)

    @torch.no_grad()
    def _encode_first(self, frames_BCHW: Tensor, num_frames: int, generators: Generators) -> dict[str, Any]:
        latents = self._drawn(frames_BCHW[:, None], generators).movedim(2, 1) * self.scale
        if self.vae.config["invert_scale_latents"]:
            latents = latents / self.scale**2
        return {"first_latents": latents}

    def initial_latents(self, condition: Condition, generators: Generators) -> Tensor:
        frames, rows, columns = self._latent_size(condition)
        shape = (condition.batch_size, frames, self.channels, rows, columns)
        return randn_tensor(shape, generator=generators, device=self.device, dtype=self.latent_dtype)

    def schedule(self, num_steps: int, condition: Condition) -> Schedule:
        scheduler: Any = CogVideoXDDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(num_steps)
        if scheduler.timesteps[0] != len(self.sigma_of_timestep) - 1 or self.sigma_of_timestep[-1] < 1:
            raise ValueError(
                "the CogVideoX scheduler must start from pure noise: set rescale_betas_zero_snr to true and "
                "timestep_spacing to trailing or linspace"
            )
        starts = self.sigma_of_timestep[scheduler.timesteps]
        before = scheduler.timesteps - scheduler.config.num_train_timesteps // num_steps
        alpha = scheduler.final_alpha_cumprod.double()
        last = (1 - alpha).sqrt() / (alpha.sqrt() + (1 - alpha).sqrt())
        ends = torch.where(before >= 0, self.sigma_of_timestep[before.clamp(min=0)], last)
        return CircleSchedule(sigmas=torch.cat([starts, ends[-1:]]), timesteps_S=scheduler.timesteps, ends_S=ends)

    def _evaluate(self, latents: Tensor, sigma_B: Tensor, condition: Condition) -> Tensor:
        table, sigma_B = self.sigma_of_timestep.to(sigma_B.device), sigma_B.double()
        timestep = (table - sigma_B[:, None]).abs().argmin(1)
        a, s = (like(part / length(sigma_B), latents) for part in (1 - sigma_B, sigma_B))
        noisy = latents / like(length(sigma_B), latents)
        dtype, inputs, config = self.dtype, noisy, self.transformer.config
        if condition.first_latents is not None:
            first = torch.zeros_like(latents)
            first[:, :1] = condition.first_latents.to(latents)
            inputs = torch.cat([noisy, first], dim=2)
        rotary = None
        if config["use_rotary_positional_embeddings"]:
            size = (condition.height_px, condition.width_px, latents.shape[1])
            rotary = self.pipeline._prepare_rotary_positional_embeddings(*size, self.device)
        turned = self.denoiser(
            hidden_states=inputs.to(dtype),
            encoder_hidden_states=condition.prompt_BLD.to(dtype),
            timestep=timestep,
            ofs=None if config["ofs_embed_dim"] is None else inputs.new_full((1,), 2.0).to(dtype),
            image_rotary_emb=rotary,
            return_dict=False,
        )[0]
        turned = turned.to(latents.dtype)
        return (s * noisy + a * turned) - (a * noisy - s * turned)

    def step(self, latents: Tensor, prediction: Tensor, schedule: Schedule, index: int, condition: Condition) -> Tensor:
        """Euler, that is DDIM; then y is taken for one of the next step's noise level, as the stock pipeline does."""
        if not isinstance(schedule, CircleSchedule):
            return super().step(latents, prediction, schedule, index, condition)
        end = schedule.ends_S[index]
        end_latents = latents + (end - schedule.sigmas[index]).item() * prediction
        following = schedule.sigmas[index + 1] if index + 1 < schedule.num_steps else torch.zeros(())
        return end_latents * (length(following) / length(end)).item()

    def free_mask(self, condition: Condition) -> Tensor:
        frames, rows, columns = self._latent_size(condition)
        return torch.ones(1, frames, 1, rows, columns, device=self.device, dtype=torch.float32)

    def first_latents(self, latents: Tensor, condition: Condition, num_frames: int) -> tuple[Tensor, Condition]:
        """Whole pieces: the decoder's norms see all frames of one."""
        time, frames = self.pipeline.vae_scale_factor_temporal, 0
        for piece in self._pieces(condition):
            frames += piece
            if 1 + (frames - 1) * time >= num_frames:
                break
        latents = latents[:, -sum(self._pieces(condition)) :][:, :frames]
        return latents, dataclasses.replace(condition, num_frames=1 + (frames - 1) * time)

    def _pieces(self, condition: Condition) -> list[int]:
        """Latent frames that the stock decodes at a time."""
        kept = (condition.num_frames - 1) // self.pipeline.vae_scale_factor_temporal + 1
        size = self.vae.num_latent_frames_batch_size
        first = size + kept % size if kept >= size else kept
        return [first, *[size] * ((kept - first) // size)]

    def decode(self, latents: Tensor, condition: Condition, *, checkpointing: bool = False) -> Tensor:
        """The stock decoder's batches of latent frames, their convolution caches passed along."""
        lengths = self._pieces(condition)
        whole = (latents[:, -sum(lengths) :].movedim(1, 2) / self.scale).to(self.vae.dtype)
        pieces = whole.split(lengths, dim=2)

        def decode_chunk(piece: Tensor, cache: Any) -> tuple[Tensor, Any]:
            piece = piece if self.vae.post_quant_conv is None else self.vae.post_quant_conv(piece)
            with blocks_checkpointed(self.vae.decoder, checkpointing):
                frames, cache = self.vae.decoder(piece, conv_cache=cache)
            return frames, without_spatial(cache)

        frames = in_chunks(decode_chunk, pieces, checkpointing=checkpointing)
        return (frames.to(latents.dtype) * 0.5 + 0.5).movedim(1, 2)


def length(sigma: Tensor) -> Tensor:
    """1 / (a + s) at a flow's noise level: x = y / (a + s) with a = (1 - sigma) / length and s = sigma / length."""
    return ((1 - sigma) ** 2 + sigma**2).sqrt()


def without_spatial(cache: Any) -> Any:
    """The caches without those of the 1 x 1 convolutions, which look at no other frame but keep whole inputs."""
    if not isinstance(cache, dict):
        return cache
    return {name: without_spatial(value) for name, value in cache.items() if name not in ("conv_y", "conv_b")}

"""LTX-Video: text- and image-to-video over the stock transformer, autoencoder, text encoder and scheduler.

Latents are packed tokens_BND, N = latent frames * rows * columns in that order, as the stock pipelines keep them.
The parametrisation is a straight flow: x_sigma = (1 - sigma) x_0 + sigma noise, prediction v = noise - x_0.
In image-to-video the first latent frame stays clean at timestep 0, told to the network by per-token timesteps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils.torch_utils import randn_tensor
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from trainers.models.base import Condition, Generators, Schedule, lora_parameters, lora_scaled


class LTXModel:
    """The adapter of the LTX family; see `trainers.models.base.VideoModel` for what each method promises."""

    lora_targets = ["to_q", "to_k", "to_v", "to_out.0"]  # noqa: RUF012  a constant of the family

    def __init__(self, pipeline: LTXPipeline) -> None:
        self.pipeline = pipeline
        self.transformer = cast(LTXVideoTransformer3DModel, pipeline.transformer)
        self.vae = cast(AutoencoderKLLTXVideo, pipeline.vae)
        self.scheduler = cast(FlowMatchEulerDiscreteScheduler, pipeline.scheduler)
        self.denoiser: nn.Module = self.transformer
        self._prompt_cache: dict[str, tuple[Tensor, Tensor]] = {}
        for module in (self.transformer, self.vae, pipeline.text_encoder):
            module.requires_grad_(False).eval()
        if self.transformer.config["patch_size"] != 1 or self.transformer.config["patch_size_t"] != 1:
            raise ValueError("the LTX transformer must have patch_size 1: the stock pipelines sample no other")
        if self.vae.config["timestep_conditioning"]:
            raise ValueError("LTX autoencoders that take a decode timestep are not supported: use the 0.9.0 layout")
        if self.scheduler.config["stochastic_sampling"] or self.scheduler.config["invert_sigmas"]:
            raise ValueError("the LTX scheduler must be the deterministic Euler one: set stochastic_sampling to false")

    @classmethod
    def load(
        cls, path: str | Path, *, torch_dtype: torch.dtype = torch.float32, vae_dtype: torch.dtype | None = None
    ) -> LTXModel:
        """Load a pipeline folder or hub name; the autoencoder may have a type of its own (bf16 3-D convolutions)."""
        pipeline = LTXPipeline.from_pretrained(str(path), dtype=torch_dtype)
        if vae_dtype is not None:
            pipeline.vae.to(vae_dtype)
        return cls(pipeline)

    def to(self, device: torch.device | str) -> LTXModel:
        self.pipeline.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.transformer.proj_in.weight.device

    @property
    def latent_dtype(self) -> torch.dtype:
        """Latents are integrated in float32 whatever the network's type, as in the stock pipelines."""
        return torch.promote_types(self.transformer.proj_in.weight.dtype, torch.float32)

    def check_size(self, num_frames: int, height_px: int, width_px: int) -> None:
        space, time = self.vae.spatial_compression_ratio, self.vae.temporal_compression_ratio
        space = max(space, 32)  # the stock pipelines refuse other sizes
        for name, value in (("height", height_px), ("width", width_px)):
            if value <= 0 or value % space:
                nearest = max(space, round(value / space) * space)
                raise ValueError(f"{name} must be a multiple of {space} px for this model, got {value}: try {nearest}")
        if num_frames < 1 or (num_frames - 1) % time:
            nearest = max(0, round((num_frames - 1) / time)) * time + 1
            raise ValueError(f"num_frames must be 1 + a multiple of {time}, got {num_frames}: try {nearest}")

    def _latent_size(self, condition: Condition) -> tuple[int, int, int]:
        space, time = self.vae.spatial_compression_ratio, self.vae.temporal_compression_ratio
        return (condition.num_frames - 1) // time + 1, condition.height_px // space, condition.width_px // space

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Text features (B, L, D) and their mask (B, L); every text is encoded once and kept."""
        new = sorted(set(prompts) - self._prompt_cache.keys())
        if new:
            encoded: Any = self.pipeline.encode_prompt(new, do_classifier_free_guidance=False)
            features, mask = encoded[:2]
            self._prompt_cache.update({text: (features[i], mask[i]) for i, text in enumerate(new)})
        features, masks = zip(*(self._prompt_cache[text] for text in prompts), strict=True)
        return torch.stack(features).to(self.device), torch.stack(masks).to(self.device)

    @torch.no_grad()
    def encode_clip(self, frames_BTCHW: Tensor, generators: Generators = None) -> Tensor:
        frames = (frames_BTCHW.movedim(2, 1) * 2 - 1).to(self.device, self.vae.dtype)
        encode: Any = self.vae.encode
        if generators is None:
            latents = encode(frames).latent_dist.mode()
        else:  # clip by clip, as the stock pipeline draws
            each = generators if isinstance(generators, list) else [generators] * len(frames)
            pairs = zip(frames.split(1), each, strict=True)
            latents = torch.cat([encode(clip).latent_dist.sample(generator) for clip, generator in pairs])
        latents = latents.to(self.latent_dtype)
        mean, std = self.vae.latents_mean, self.vae.latents_std
        return _pack(LTXPipeline._normalize_latents(latents, mean, std))

    def condition(
        self,
        prompts: Sequence[str],
        *,
        fps: float | Tensor,
        num_frames: int,
        height_px: int,
        width_px: int,
        first_frames_BCHW: Tensor | None = None,
        guidance_scale: float = 1.0,
        negative_prompt: str = "",
        generators: Generators = None,
    ) -> Condition:
        """Encode what the clips are conditioned on; in image-to-video `generators` draw the first frame's latents."""
        self.check_size(num_frames, height_px, width_px)
        fps_B = torch.as_tensor(fps, dtype=torch.float32, device=self.device).expand(len(prompts))
        if not (fps_B > 0).all():
            raise ValueError(f"fps must be > 0, got {fps_B.min().item():g}: give the clip's frames a second")
        prompt, mask = self.encode_prompt(prompts)
        negative = self.encode_prompt([negative_prompt] * len(prompts)) if guidance_scale > 1 else (None, None)
        # Padding is masked in every cross-attention: what no text of the batch reaches need not be carried along.
        masks = [mask] if negative[1] is None else [mask, negative[1]]
        longest = int(max(one.sum(1).max() for one in masks))
        first = None
        if first_frames_BCHW is not None:
            if first_frames_BCHW.shape[-2:] != (height_px, width_px):
                came = "{} x {}".format(*first_frames_BCHW.shape[-2:])
                raise ValueError(f"first frames must be {height_px} x {width_px} px, got {came}: resize them")
            first = self.encode_clip(first_frames_BCHW[:, None], generators)
        return Condition(
            num_frames=num_frames,
            height_px=height_px,
            width_px=width_px,
            fps_B=fps_B,
            prompt_BLD=prompt[:, :longest],
            prompt_mask_BL=mask[:, :longest],
            negative_BLD=None if negative[0] is None else negative[0][:, :longest],
            negative_mask_BL=None if negative[1] is None else negative[1][:, :longest],
            guidance_scale=guidance_scale,
            first_latents=first,
        )

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

    def predict(self, latents: Tensor, sigma_B: Tensor, condition: Condition, *, adapter_scale: float = 1.0) -> Tensor:
        """v = noise - x_0, guided where the condition says so; the same type as `latents`."""
        frames, rows, columns = self._latent_size(condition)
        tokens, text, mask, fps_B = latents, condition.prompt_BLD, condition.prompt_mask_BL, condition.fps_B
        timestep = sigma_B.to(latents.device, torch.float32) * self.scheduler.config["num_train_timesteps"]
        timestep = timestep.expand(len(latents))
        if condition.first_latents is not None:
            timestep = timestep[:, None] * self.free_mask(condition)[..., 0]
        guided = condition.guidance_scale > 1
        if guided:
            assert condition.negative_BLD is not None
            assert condition.negative_mask_BL is not None
            text = torch.cat([condition.negative_BLD, text])
            mask = torch.cat([condition.negative_mask_BL, mask])
            tokens, timestep, fps_B = torch.cat([tokens] * 2), torch.cat([timestep] * 2), torch.cat([fps_B] * 2)
        seconds_per_latent = self.vae.temporal_compression_ratio / fps_B[:, None, None, None, None]
        space = self.vae.spatial_compression_ratio
        with lora_scaled(self.transformer, adapter_scale):
            prediction = self.denoiser(
                hidden_states=tokens.to(text.dtype),
                encoder_hidden_states=text,
                timestep=timestep,
                encoder_attention_mask=mask,
                num_frames=frames,
                height=rows,
                width=columns,
                rope_interpolation_scale=(seconds_per_latent, space, space),
                return_dict=False,
            )[0].to(latents.dtype)
        if guided:
            free, told = prediction.chunk(2)
            prediction = free + condition.guidance_scale * (told - free)
        return prediction

    def step(self, latents: Tensor, prediction: Tensor, schedule: Schedule, index: int, condition: Condition) -> Tensor:
        """Euler: x_{i+1} = x_i + (sigma_{i+1} - sigma_i) v."""
        d_sigma = schedule.sigmas[index + 1] - schedule.sigmas[index]
        return self.pin(latents + d_sigma.to(latents.device) * prediction, condition)

    def predicted_clean(self, latents: Tensor, prediction: Tensor, sigma_B: Tensor) -> Tensor:
        return latents - sigma_B.to(latents)[:, None, None] * prediction

    def add_noise(self, clean: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
        sigma = sigma_B.to(clean)[:, None, None]
        return (1 - sigma) * clean + sigma * noise

    def training_target(self, clean: Tensor, noise: Tensor) -> Tensor:
        return noise - clean

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

    def decode(self, latents: Tensor, condition: Condition) -> Tensor:
        unpacked = latents.unflatten(1, self._latent_size(condition)).movedim(-1, 1)
        config = self.vae.config
        mean, std = self.vae.latents_mean, self.vae.latents_std
        unpacked = LTXPipeline._denormalize_latents(unpacked, mean, std, config["scaling_factor"])
        frames = self.vae.decode(unpacked.to(self.vae.dtype), None, return_dict=False)[0]
        return (frames.to(latents.dtype) * 0.5 + 0.5).movedim(1, 2)

    def add_lora(self, *, r: int, alpha: float, dropout: float = 0.0, targets: Sequence[str] | None = None) -> None:
        """Add a LoRA with float32 weights: at a small learning rate bfloat16 ones would never move."""
        modules = list(targets or self.lora_targets)
        config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules)  # pyright: ignore[reportArgumentType]
        try:
            self.transformer.add_adapter(config)
        except ValueError as error:
            raise ValueError(f"lora_target_modules {modules} do not fit this model: {error}") from error
        self._finish_lora(trainable=True)

    def load_lora(self, path: str | Path, *, trainable: bool = False) -> None:
        """Load a LoRA in the stock format, from a file or a folder."""
        try:
            state, metadata = LTXPipeline.lora_state_dict(str(path), return_lora_metadata=True)
            self.transformer.load_lora_adapter(state, metadata=metadata, adapter_name="default", prefix="transformer")
        except (RuntimeError, ValueError, OSError) as error:
            raise ValueError(f"LoRA {path} does not fit this model or cannot be read: {error}") from error
        self._finish_lora(trainable=trainable)

    def _finish_lora(self, *, trainable: bool) -> None:
        weights = lora_parameters(self.transformer)
        if not weights:
            raise ValueError("the LoRA has no weight for this model: check that it was trained on the same family")
        for weight in weights.values():
            weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))
            weight.requires_grad_(trainable)
        self.transformer.eval()  # LoRA dropout would otherwise act in rollouts

    def save_lora(self, folder: str | Path) -> None:
        weights: dict[str, Any] = get_peft_model_state_dict(self.transformer)
        LTXPipeline.save_lora_weights(
            str(folder),
            transformer_lora_layers=weights,
            **_collate_lora_metadata({"transformer": self.transformer}),
        )


def _pack(latents_BCFHW: Tensor) -> Tensor:
    """(B, C, F, H, W) -> tokens (B, F * H * W, C)."""
    return latents_BCFHW.flatten(2).transpose(1, 2)

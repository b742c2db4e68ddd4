"""What the families share: a family fills in its sizes, its text, its network call and its decoder.

All are straight flows to the interface: x_sigma = (1 - sigma) x_0 + sigma noise, and the prediction is v = noise - x_0.

Axes: B clips, T frames, C colours or channels, H rows, W columns, L text tokens, D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from trainers.models.base import Condition, Generators, Schedule, lora_scaled
from trainers.models.networks import StockNetworks
from trainers.models.prompts import PromptCache, Text

TEXT_FIELDS: tuple[str, ...] = ("prompt_BLD", "prompt_mask_BL", "pooled_BD")
NEGATIVE_FIELDS: tuple[str, ...] = ("negative_BLD", "negative_mask_BL", "negative_pooled_BD")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatefulSchedule(Schedule):
    """A schedule whose steps are a stock scheduler's with its history: good for one rollout, from its first step."""

    scheduler: Any


class StockModel(StockNetworks):
    """A family over a stock pipeline; see `trainers.models.base.VideoModel` for what each method promises."""

    trims_text = False  # whether padding is masked in every attention, so that it need not be carried along
    decodes_tiles = False  # whether the stock decoder may be given squares of the clip
    decode_tile_px = 0  # side of such a square; 0 decodes the whole
    has_negative_branch = True  # whether guidance weighs two evaluations, or is given to a distilled network

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self._prompt_cache = PromptCache()

    def decode_in_tiles(self, side_px: int) -> None:
        """From now on decode squares of `side_px` that overlap by a quarter; not exact. 0 decodes the whole.

        Raises:
            ValueError: the family has no such decoder, or the side does not suit it.
        """
        space = 4 * self.vae.spatial_compression_ratio if side_px else 1
        if side_px and not self.decodes_tiles:
            raise ValueError(
                f"decode_tile_px is for LTX-Video and HunyuanVideo, got {side_px}: set it to 0, "
                "this decoder goes piece by piece through time"
            )
        if side_px % space:
            nearest = max(space, round(side_px / space) * space)
            raise ValueError(f"decode_tile_px must be a multiple of {space} px, got {side_px}: try {nearest}")
        self.decode_tile_px = side_px

    def _multiples(self) -> tuple[int, int]:
        """What height and width, and the frames after the first, must be multiples of."""
        raise NotImplementedError

    def check_size(self, num_frames: int, height_px: int, width_px: int) -> None:
        space, time = self._multiples()
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

    def _encode_texts(self, texts: list[str]) -> Text:
        """Features (B, L, D), mask (B, L) and whatever else the family reads off a prompt."""
        raise NotImplementedError

    @property
    def text_shape(self) -> tuple[int, int]:
        """Tokens and features of a prompt, as the network is given it."""
        raise NotImplementedError

    def _drawn(self, frames_BTCHW: Tensor, generators: Generators) -> Tensor:
        """Latents (B, C, F, H, W) as the autoencoder gives them: the mode, or drawn clip by clip as the stock does."""
        frames = (frames_BTCHW.movedim(2, 1) * 2 - 1).to(self.device, self.vae.dtype)
        if generators is None:
            return self.vae.encode(frames).latent_dist.mode().to(self.latent_dtype)
        each = generators if isinstance(generators, list) else [generators] * len(frames)
        pairs = zip(frames.split(1), each, strict=True)
        latents = [self.vae.encode(clip).latent_dist.sample(generator) for clip, generator in pairs]
        return torch.cat(latents).to(self.latent_dtype)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Text:
        """Text features (B, L, D) and their mask (B, L); the texts of late are kept, beside an offloaded encoder."""

        def encode(texts: list[str]) -> Text:
            with self._encoders_at_hand():
                encoded = self._encode_texts(texts)
            return tuple(part.cpu() for part in encoded) if self.offload_text else encoded

        encodings = zip(*self._prompt_cache.get(prompts, encode), strict=True)
        return tuple(torch.stack(parts).to(self.device) for parts in encodings)

    def read(self, prompts: Sequence[str], first_frames_BCHW: Tensor | None) -> Text:
        """The text's features; a family that reads prompt and first frame together has a method of its own."""
        return self.encode_prompt(prompts)

    def _encode_first(self, frames_BCHW: Tensor, num_frames: int, generators: Generators) -> dict[str, Any]:
        """Fields of the condition that the first frame brings."""
        raise NotImplementedError

    def check_mode(self, with_image: bool) -> None:
        """Raise ValueError where the model needs a first frame and has none, or takes none and has one."""

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
        self.check_mode(first_frames_BCHW is not None)
        fps_B = torch.as_tensor(fps, dtype=torch.float32).expand(len(prompts))
        if not (fps_B > 0).all():
            raise ValueError(f"fps must be > 0, got {fps_B.min().item():g}: give the clip's frames a second")
        text: dict[str, Any] = dict(zip(TEXT_FIELDS, self.read(prompts, first_frames_BCHW), strict=False))
        if guidance_scale > 1 and self.has_negative_branch:
            negative = self.encode_prompt([negative_prompt] * len(prompts))
            text |= dict(zip(NEGATIVE_FIELDS, negative, strict=False))
        if self.trims_text:
            longest = int(max(text[name].sum(1).max() for name in text if "mask" in name))
            text = {name: part if name.endswith("_BD") else part[:, :longest] for name, part in text.items()}
        first: dict[str, Any] = {}
        if first_frames_BCHW is not None:
            if first_frames_BCHW.shape[-2:] != (height_px, width_px):
                came = "{} x {}".format(*first_frames_BCHW.shape[-2:])
                raise ValueError(f"first frames must be {height_px} x {width_px} px, got {came}: resize them")
            with self._encoders_at_hand():
                first = self._encode_first(first_frames_BCHW, num_frames, generators)
        return Condition(
            num_frames=num_frames,
            height_px=height_px,
            width_px=width_px,
            fps_B=fps_B.to(self.device),
            guidance_scale=guidance_scale,
            **text,
            **first,
        )

    def _evaluate(self, latents: Tensor, sigma_B: Tensor, condition: Condition) -> Tensor:
        """One call of the network for the condition's prompt, without guidance."""
        raise NotImplementedError

    def predict(self, latents: Tensor, sigma_B: Tensor, condition: Condition, *, adapter_scale: float = 1.0) -> Tensor:
        """v = noise - x_0, guided where the condition says so; the same type as `latents`."""
        sigma_B = sigma_B.to(latents.device).expand(len(latents))
        self._adapter_scale = adapter_scale
        with lora_scaled(self.transformer, adapter_scale):
            if condition.negative_BLD is None:
                return self._evaluate(latents, sigma_B, condition)
            negative = {
                positive: getattr(condition, name)
                for positive, name in zip(TEXT_FIELDS, NEGATIVE_FIELDS, strict=True)
                if getattr(condition, name) is not None
            }
            if condition.detach_negative:
                with torch.no_grad():
                    free = self._evaluate(latents, sigma_B, dataclasses.replace(condition, **negative))
                told = self._evaluate(latents, sigma_B, condition)
            else:
                both = {name: torch.cat([part, getattr(condition, name)]) for name, part in negative.items()}
                twice = dataclasses.replace(condition[list(range(len(latents))) * 2], **both)
                free, told = self._evaluate(torch.cat([latents] * 2), torch.cat([sigma_B] * 2), twice).chunk(2)
        return free + condition.guidance_scale * (told - free)

    def step(self, latents: Tensor, prediction: Tensor, schedule: Schedule, index: int, condition: Condition) -> Tensor:
        """The rollout's own scheduler where it has one, or Euler: x_{i+1} = x_i + (sigma_{i+1} - sigma_i) v."""
        if isinstance(schedule, StatefulSchedule):
            result = schedule.scheduler.step(prediction, schedule.timesteps_S[index], latents, return_dict=False)[0]
        else:
            d_sigma = schedule.sigmas[index + 1] - schedule.sigmas[index]
            result = latents + d_sigma.to(latents.device) * prediction
        return self.pin(result, condition)

    def pin(self, latents: Tensor, condition: Condition) -> Tensor:
        """No latent is given where the first frame comes as channels or tokens of its own."""
        return latents

    def first_latents(self, latents: Tensor, condition: Condition, num_frames: int) -> tuple[Tensor, Condition]:
        """A decoder that is not causal needs all."""
        return latents, condition

    def predicted_clean(self, latents: Tensor, prediction: Tensor, sigma_B: Tensor) -> Tensor:
        return latents - like(sigma_B, latents) * prediction

    def add_noise(self, clean: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
        sigma = like(sigma_B, clean)
        return (1 - sigma) * clean + sigma * noise

    def training_target(self, clean: Tensor, noise: Tensor) -> Tensor:
        return noise - clean


def pictures(frames_BCHW: Tensor) -> list[Any]:
    """The first frames as image encoders take them, rounded to 8 bits."""
    arrays = (frames_BCHW.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [PIL.Image.fromarray(array) for array in arrays]


def like(sigma_B: Tensor, latents: Tensor) -> Tensor:
    """Noise levels in the latents' type, broadcastable to them."""
    return sigma_B.to(latents).view(-1, *[1] * (latents.ndim - 1))

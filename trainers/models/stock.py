"""What the adapters share: a family fills in its sizes, its text, its network call and its decoder.

All are straight flows to the interface: x_sigma = (1 - sigma) x_0 + sigma noise, and the prediction is v = noise - x_0.

Axes: B clips, T frames, C colours or channels, H rows, W columns, L text tokens, D features.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainers.models.base import Condition, Generators, Schedule, lora_parameters, lora_scaled
from trainers.models.offload import Offloaded, blocks_of

Text = tuple[Tensor, ...]
ENCODERS: tuple[str, ...] = ("text_encoder", "image_encoder")
TEXT_FIELDS: tuple[str, ...] = ("prompt_BLD", "prompt_mask_BL", "pooled_BD")
NEGATIVE_FIELDS: tuple[str, ...] = ("negative_BLD", "negative_mask_BL", "negative_pooled_BD")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatefulSchedule(Schedule):
    """A schedule whose steps are a stock scheduler's with its history: good for one rollout, from its first step."""

    scheduler: Any


class StockModel:
    """A family over a stock pipeline; see `trainers.models.base.VideoModel` for what each method promises."""

    lora_targets = ["to_q", "to_k", "to_v", "to_out.0"]  # noqa: RUF012  a constant of the family
    trims_text = False  # whether padding is masked in every attention, so that it need not be carried along
    offload_text = False  # whether text and image encoders wait on the CPU while they are not asked
    offload_blocks = False  # whether the blocks' frozen weights do, while the block does not run; set it before `to`
    decodes_tiles = False  # whether the stock decoder may be given squares of the clip
    decode_tile_px = 0  # side of such a square; 0 decodes the whole
    has_negative_branch = True  # whether guidance weighs two evaluations, or is told to a distilled network

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.transformer: Any = pipeline.transformer
        self.vae: Any = pipeline.vae
        self.scheduler: Any = pipeline.scheduler
        self.denoiser: nn.Module = self.transformer
        self._prompt_cache: dict[str, Text] = {}
        self._adapter_scale = 1.0
        self.offloaded: list[Offloaded] = []
        for module in pipeline.components.values():
            if isinstance(module, nn.Module):
                module.requires_grad_(False).eval()

    @classmethod
    def load(
        cls, path: str | Path, *, torch_dtype: torch.dtype = torch.float32, vae_dtype: torch.dtype | None = None
    ) -> Any:
        """Load a pipeline folder or hub name; the autoencoder may have a type of its own (bf16 3-D convolutions)."""
        pipeline: Any = DiffusionPipeline.from_pretrained(str(path), dtype=torch_dtype)
        if vae_dtype is not None:
            pipeline.vae.to(vae_dtype)
        return cls(pipeline)

    def to(self, device: torch.device | str) -> Any:
        if self.offload_text:
            self._move_text("cpu")
        for name, module in self.pipeline.components.items():
            if self.offload_blocks and module in self.networks.values():
                self.offloaded.append(Offloaded(module, device))
            elif isinstance(module, nn.Module) and not (self.offload_text and name.startswith(ENCODERS)):
                module.to(device)
        return self

    def _move_text(self, device: torch.device | str) -> None:
        for name, module in self.pipeline.components.items():
            if name.startswith(ENCODERS) and module is not None:
                module.to(device)

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

    def checkpoint_blocks(self) -> None:
        """Evaluate each block of the network again in backward, at the adapter's scale of the first time; exact."""

        def func(block: Any, *args: Any) -> Any:
            scale = self._adapter_scale

            def contexts() -> tuple[Any, Any]:
                return contextlib.nullcontext(), lora_scaled(self.transformer, scale)

            return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)

        for network in self.networks.values():
            network.enable_gradient_checkpointing(func)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile each block of the network when it first runs; blocks of one shape are compiled once."""
        for network in self.networks.values():
            for block in blocks_of(network):
                block.compile(backend=backend)

    @property
    def networks(self) -> dict[str, Any]:
        """The networks that carry a LoRA, by the file that stock pipelines read it from."""
        return {"pytorch_lora_weights.safetensors": self.transformer}

    @property
    def _anchor(self) -> Tensor:
        return next(iter(self.networks.values())).proj_out.weight

    @property
    def device(self) -> torch.device:
        return self._anchor.device

    @property
    def latent_dtype(self) -> torch.dtype:
        """Latents are integrated in float32 whatever the network's type, as in the stock pipelines."""
        return torch.promote_types(self._anchor.dtype, torch.float32)

    @contextlib.contextmanager
    def _encoders_at_hand(self) -> Iterator[None]:
        """Text and image encoders on the network's device inside the block."""
        if self.offload_text:
            self._move_text(self.device)
        try:
            yield
        finally:
            if self.offload_text:
                self._move_text("cpu")

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
        """Text features (B, L, D) and their mask (B, L); every text is encoded once and kept."""
        new = sorted(set(prompts) - self._prompt_cache.keys())
        if new:
            with self._encoders_at_hand():
                encoded = self._encode_texts(new)
            self._prompt_cache.update({text: tuple(part[i] for part in encoded) for i, text in enumerate(new)})
        several = zip(*(self._prompt_cache[text] for text in prompts), strict=True)
        return tuple(torch.stack(parts).to(self.device) for parts in several)

    def _read(self, prompts: Sequence[str], first_frames_BCHW: Tensor | None) -> Text:
        """The text's features; a family that reads prompt and first frame together has its own."""
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
        fps_B = torch.as_tensor(fps, dtype=torch.float32, device=self.device).expand(len(prompts))
        if not (fps_B > 0).all():
            raise ValueError(f"fps must be > 0, got {fps_B.min().item():g}: give the clip's frames a second")
        text: dict[str, Any] = dict(zip(TEXT_FIELDS, self._read(prompts, first_frames_BCHW), strict=False))
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
            fps_B=fps_B,
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
            done = schedule.scheduler.step(prediction, schedule.timesteps_S[index], latents, return_dict=False)[0]
        else:
            d_sigma = schedule.sigmas[index + 1] - schedule.sigmas[index]
            done = latents + d_sigma.to(latents.device) * prediction
        return self.pin(done, condition)

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

    def add_lora(self, *, r: int, alpha: float, dropout: float = 0.0, targets: Sequence[str] | None = None) -> None:
        """Add a LoRA with float32 weights: at a small learning rate bfloat16 ones would never move."""
        modules = list(targets or self.lora_targets)
        config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules)  # pyright: ignore[reportArgumentType]
        for network in self.networks.values():
            try:
                network.add_adapter(config)
            except ValueError as error:
                raise ValueError(f"lora_target_modules {modules} do not fit this model: {error}") from error
        self._finish_lora(trainable=True)

    def load_lora(self, path: str | Path, *, trainable: bool = False) -> None:
        """Load a LoRA in the stock format, from a safetensors file or a folder with one; nothing is unpickled."""
        for place, (name, network) in enumerate(self.networks.items()):
            file = Path(path) if Path(path).is_dir() else Path(path).parent
            where = str(path) if place == 0 else str(file / name)
            try:
                state, metadata = self.pipeline.lora_state_dict(where, return_lora_metadata=True, use_safetensors=True)
                network.load_lora_adapter(state, metadata=metadata, adapter_name="default", prefix="transformer")
            except (RuntimeError, ValueError, OSError, SafetensorError) as error:
                raise ValueError(f"LoRA {where} does not fit this model or cannot be read: {error}") from error
        self._finish_lora(trainable=trainable)

    def _finish_lora(self, *, trainable: bool) -> None:
        if not all(lora_parameters(network) for network in self.networks.values()):
            raise ValueError("the LoRA has no weight for this model: check that it was trained on the same family")
        for weight in lora_parameters(self.transformer).values():
            weight.data = weight.data.to(self.device, torch.promote_types(weight.dtype, torch.float32))
            weight.requires_grad_(trainable)
        self.transformer.eval()  # LoRA dropout would otherwise act in rollouts

    def save_lora(self, folder: str | Path) -> None:
        for name, network in self.networks.items():
            weights: dict[str, Any] = get_peft_model_state_dict(network)
            metadata = _collate_lora_metadata({"transformer": network})
            self.pipeline.save_lora_weights(str(folder), transformer_lora_layers=weights, weight_name=name, **metadata)

    def merge_lora(self) -> None:
        """Add the LoRA to the weights under it; the model is then a plain one."""
        for network in self.networks.values():
            network.fuse_lora()
            network.unload_lora()


def pictures(frames_BCHW: Tensor) -> list[Any]:
    """The first frames as image encoders take them, rounded to 8 bits."""
    arrays = (frames_BCHW.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [PIL.Image.fromarray(array) for array in arrays]


def like(sigma_B: Tensor, latents: Tensor) -> Tensor:
    """Noise levels in the latents' type, broadcastable to them."""
    return sigma_B.to(latents).view(-1, *[1] * (latents.ndim - 1))

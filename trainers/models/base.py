"""What the trainers ask of a video model; one class per family implements it over stock diffusers components.

Axes: B clips, T frames, C colours or channels, H rows, W columns, L text tokens, N latent tokens, D features,
S sampling steps. Latents are whatever shape the family's transformer takes; only the family looks inside them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Generators = torch.Generator | list[torch.Generator] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """All that a batch of clips is generated from, apart from the noise.

    Args:
        num_frames, height_px, width_px: size of the clips.
        fps_B: frames a second of each clip.
        prompt_BLD, prompt_mask_BL: text features and which of them are text.
        negative_BLD, negative_mask_BL: the same of the negative prompt; needed where guidance_scale > 1.
        guidance_scale: classifier-free guidance; 1 turns it off and halves the cost.
        detach_negative: let no gradient through the unguided branch, which then keeps no graph either.
        first_latents: latents of the conditioning first frame, or None for text-to-video.
        pooled_BD, negative_pooled_BD: what a second text encoder says of the whole prompt, where the family has one.
        image_BLD: features of the first frame, where the family has an image encoder.
    """

    num_frames: int
    height_px: int
    width_px: int
    fps_B: Tensor
    prompt_BLD: Tensor
    prompt_mask_BL: Tensor
    negative_BLD: Tensor | None = None
    negative_mask_BL: Tensor | None = None
    guidance_scale: float = 1.0
    detach_negative: bool = False
    first_latents: Tensor | None = None
    pooled_BD: Tensor | None = None
    negative_pooled_BD: Tensor | None = None
    image_BLD: Tensor | None = None

    @property
    def batch_size(self) -> int:
        return self.prompt_BLD.shape[0]

    def __getitem__(self, clips: slice | Sequence[int] | Tensor) -> Condition:
        """Some of the clips, as a Condition: `condition[0:2]`, `condition[[0, 0, 1]]`."""
        picked = {
            field.name: value[clips]
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **picked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The noise levels of one rollout: step i goes from sigmas[i] to sigmas[i + 1]; the last is 0 (clean).

    Args:
        sigmas: S + 1 falling noise levels in [0, 1], on the CPU.
        timesteps_S: what the transformer is given at each step.
    """

    sigmas: Tensor
    timesteps_S: Tensor

    @property
    def num_steps(self) -> int:
        return len(self.timesteps_S)


class VideoModel(Protocol):
    """A video model of one family. Sampling without grad equals the stock pipeline's output on the same seed."""

    pipeline: Any  # the stock pipeline
    vae: Any  # its autoencoder
    transformer: nn.Module  # the bare network that carries the LoRA
    denoiser: nn.Module  # what `predict` calls: the same network, or its DDP / DeepSpeed wrapper
    lora_targets: list[str]
    offload_text: bool  # keep text and image encoders on the CPU while they are not asked; set it before `to`
    offload_blocks: bool  # the same of blocks' frozen weights while the block does not run; needs checkpoint_blocks
    decode_tile_px: int  # side of the squares that `decode_in_tiles` asked for
    trims_text: bool  # padding of the text is left out of a condition

    def decode_in_tiles(self, side_px: int) -> None:
        """From now on decode overlapping squares of that side, not exactly; 0 decodes the whole."""
        ...

    def checkpoint_blocks(self) -> None:
        """From now on evaluate each block of the network again in backward."""
        ...

    def compile_blocks(self, backend: str = "inductor") -> None:
        """From now on run each block of the network by torch.compile."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's frozen weights."""
        ...

    @property
    def networks(self) -> dict[str, Any]:
        """The networks that carry a LoRA, by the file that stock pipelines read it from."""
        ...

    def network_at(self, sigma: float) -> str:
        """Which of `networks` predicts at a noise level, by its file."""
        ...

    @property
    def text_shape(self) -> tuple[int, int]:
        """Tokens and features of a prompt, as the network is given it."""
        ...

    def to(self, device: torch.device | str) -> VideoModel: ...

    def check_size(self, num_frames: int, height_px: int, width_px: int) -> None:
        """Raise ValueError naming the nearest valid size."""
        ...

    def check_mode(self, with_image: bool) -> None:
        """Raise ValueError where the model needs a first frame and has none, or takes none and has one."""
        ...

    def encode_prompt(self, prompts: Sequence[str]) -> tuple[Tensor, ...]:
        """Features (B, L, D), their mask (B, L) and, where the family pools a prompt, that (B, D)."""
        ...

    def read(self, prompts: Sequence[str], first_frames_BCHW: Tensor | None) -> tuple[Tensor, ...]:
        """The same, of a family that reads prompt and first frame together; of the prompt alone for the others."""
        ...

    def encode_clip(self, frames_BTCHW: Tensor, generators: Generators = None) -> Tensor:
        """Latents of clips in [0, 1]: the posterior's mode, or a sample where generators are given."""
        ...

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
    ) -> Condition: ...

    def initial_latents(self, condition: Condition, generators: Generators) -> Tensor: ...

    def schedule(self, num_steps: int, condition: Condition) -> Schedule:
        """A rollout's own noise levels and scheduler state."""
        ...

    def predict(self, latents: Tensor, sigma_B: Tensor, condition: Condition, *, adapter_scale: float = 1.0) -> Tensor:
        """The network's prediction in the family's own parametrisation."""
        ...

    def step(self, latents: Tensor, prediction: Tensor, schedule: Schedule, index: int, condition: Condition) -> Tensor:
        """One scheduler step, differentiable, the conditioning frame left pinned."""
        ...

    def predicted_clean(self, latents: Tensor, prediction: Tensor, sigma_B: Tensor) -> Tensor: ...

    def add_noise(self, clean: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor: ...

    def training_target(self, clean: Tensor, noise: Tensor) -> Tensor: ...

    def pin(self, latents: Tensor, condition: Condition) -> Tensor:
        """The latents with the conditioning frame put back, clean."""
        ...

    def free_mask(self, condition: Condition) -> Tensor:
        """1 on latents that the model denoises and 0 on the conditioning frame, broadcastable to the latents."""
        ...

    def decode(self, latents: Tensor, condition: Condition, *, checkpointing: bool = False) -> Tensor:
        """frames_BTCHW around [0, 1], not clamped; with grad where grad is enabled.

        With checkpointing the decoder's activations are evaluated again in backward, piece by piece and exactly.
        """
        ...

    def first_latents(self, latents: Tensor, condition: Condition, num_frames: int) -> tuple[Tensor, Condition]:
        """What decodes to the first `num_frames` frames or more; all of it where the decoder is not causal."""
        ...

    def add_lora(self, *, r: int, alpha: float, dropout: float = 0.0, targets: Sequence[str] | None = None) -> None: ...

    def load_lora(self, path: str | Path, *, trainable: bool = False) -> None: ...

    def merge_lora(self) -> None:
        """Add the LoRA to the weights under it."""
        ...

    def save_lora(self, folder: str | Path) -> None:
        """Write the LoRA so that the stock pipeline's `load_lora_weights` takes it."""
        ...


@torch.no_grad()
def round_trip(model: VideoModel, frames_BTCHW: Tensor, prompts: Sequence[str], fps_B: Tensor) -> Tensor:
    """Clips encoded and decoded again by the model's autoencoder, frames_BTCHW in [0, 1]."""
    _, num_frames, _, height, width = frames_BTCHW.shape
    condition = model.condition(prompts, fps=fps_B, num_frames=num_frames, height_px=height, width_px=width)
    return model.decode(model.encode_clip(frames_BTCHW), condition).clamp(0, 1)


@contextlib.contextmanager
def lora_scaled(module: nn.Module, scale: float) -> Iterator[None]:
    """Multiply the LoRA's contribution by `scale` inside the block; 0 turns the adapter off.

    diffusers' `disable_adapters` would turn `requires_grad` off on the LoRA weights as well, and a later backward
    would give them no gradient without a word. The scale leaves the graph and the flags alone.
    """
    if scale == 1.0:
        yield
        return
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in module.modules() if isinstance(layer, LoraLayer)]
    saved = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            for name in layer.scaling:
                layer.scaling[name] *= scale
        yield
    finally:
        for layer, scaling in zip(layers, saved, strict=True):
            layer.scaling.update(scaling)


def lora_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The LoRA weights of a network by name, in a fixed order."""
    return {name: weight for name, weight in module.named_parameters() if "lora_" in name}

"""The networks of a stock pipeline: where they are, how their blocks run, and the LoRA on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainers.models.adapters import find_adapter, read_adapter, set_exactly
from trainers.models.base import lora_parameters, lora_scaled
from trainers.models.bases import load_pipeline
from trainers.models.offload import Offloaded, blocks_of

ENCODERS: tuple[str, ...] = ("text_encoder", "image_encoder")


class StockNetworks:
    """A stock pipeline and its networks; `trainers.models.base.VideoModel` says what each method promises."""

    lora_targets = ["to_q", "to_k", "to_v", "to_out.0"]  # noqa: RUF012  a constant of the family
    offload_text = False  # whether text and image encoders wait on the CPU while they are not asked
    offload_blocks = False  # whether the blocks' frozen weights do, while the block does not run; set it before `to`

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.transformer: Any = pipeline.transformer
        self.vae: Any = pipeline.vae
        self.scheduler: Any = pipeline.scheduler
        self.denoiser: nn.Module = self.transformer
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
        pipeline: Any = load_pipeline(path, dtype=torch_dtype)
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

    def network_at(self, sigma: float) -> str:
        """Which of `networks` predicts at a noise level, by its file."""
        return next(iter(self.networks))

    @property
    def _anchor(self) -> Tensor:
        return next(iter(self.networks.values())).proj_out.weight

    @property
    def device(self) -> torch.device:
        return self._anchor.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that are not packed: quantised ones are kept in whole bytes."""
        weights = [self._anchor, *next(iter(self.networks.values())).parameters()]
        return next(one.dtype for one in weights if one.is_floating_point() and one.dtype.itemsize > 1)

    @property
    def latent_dtype(self) -> torch.dtype:
        """Latents are integrated in float32 whatever the network's type, as in the stock pipelines."""
        return torch.promote_types(self.dtype, torch.float32)

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

    def add_lora(self, *, r: int, alpha: float, dropout: float = 0.0, targets: Sequence[str] | None = None) -> None:
        """Add a LoRA with float32 weights: at a small learning rate bfloat16 ones would never move."""
        modules = list(targets or self.lora_targets)
        config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules)  # pyright: ignore[reportArgumentType]
        for network in self.networks.values():
            try:
                network.add_adapter(config)
            except ValueError as error:
                raise ValueError(f"lora_target_modules {modules} do not fit this model: {error}") from error
        idle = [
            name for name in targets or () if not any(f".{layer}".endswith(f".{name}") for layer in self._with_lora())
        ]
        if idle:
            raise ValueError(
                f"lora_target_modules {', '.join(idle)} name no layer of this model: leave them out, or take "
                f"{', '.join(self.lora_targets)}"
            )
        self._finish_lora(trainable=True)

    def _with_lora(self) -> list[str]:
        """The layers that carry a LoRA, by name."""
        from peft.tuners.lora import LoraLayer

        return [
            name
            for network in self.networks.values()
            for name, layer in network.named_modules()
            if isinstance(layer, LoraLayer)
        ]

    def load_lora(self, path: str | Path, *, trainable: bool = False) -> None:
        """Load a LoRA of any usual writer, from a safetensors file or a folder with one; nothing is unpickled.

        A second expert's is the file of its stock name beside the first, or stands in the same file.
        """
        for place, (name, network) in enumerate(self.networks.items()):
            where = str(path)
            try:
                file = find_adapter(path)
                adapter = read_adapter(file, network, second=place > 0 if len(self.networks) > 1 else None)
                if place > 0 and not adapter.state:
                    where = str(file.parent / name)
                    adapter = read_adapter(find_adapter(where), network)
                if not adapter.state:
                    raise ValueError("it holds no LoRA")
                network.load_lora_adapter(adapter.state, metadata=adapter.settings, adapter_name="default", prefix=None)
                set_exactly(network, adapter.state)
            except (RuntimeError, ValueError, OSError, KeyError, TypeError, SafetensorError) as error:
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

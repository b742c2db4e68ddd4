"""What a training step needs in memory, found by running it on tensors without data.

    python -m trainers.memory_plan --size wan2.1-1.3b --num_frames 81 --height 480 --width 832
    accelerate launch trainers/oro.py --config configs/oro_wan_24gb.yaml --dry_run

No weights are needed: the networks are built from their configs on PyTorch's meta device, and the trainer's own
loss runs there, forward and backward, while `trainers.memory_plan.meter` counts what is alive. Attention counts as the
fused kernels do. Not counted: the reward's instruments (their graph is freed before the decoder's backward), a GPU's
workspaces inside an operator, and the allocator's fragments. A plan is that of one process without sharding.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from typing import Any, Generic

import diffusers
import torch
from torch import Tensor

from trainers.memory_plan.blank import FEW, Blank, C, MeteredPhases, Step
from trainers.memory_plan.decoding import DecodeCost, remember_decoding
from trainers.memory_plan.meter import MemoryMeter, Workspace, fused_attention
from trainers.models import FAMILIES, VideoModel, family_of
from trainers.models.offload import AT_HAND, blocks_of
from trainers.models.sizes import Made, Size
from trainers.settings.common import TrainerConfig

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Bytes: what stays, and the most that is alive beside it in each phase.

    Args:
        weights: how many numbers the networks and the LoRA have.
    """

    weights: dict[str, int]
    held: dict[str, int]
    phases: dict[str, int]

    @property
    def peak_bytes(self) -> int:
        return sum(self.held.values()) + max(self.phases.values())

    def further(self, next_plan: Plan, count: int) -> Plan:
        """The plan of `count` blocks or steps beyond, from `next_plan`, that of one."""

        def grown(name: str) -> dict[str, int]:
            less, high = getattr(self, name), getattr(next_plan, name)
            return {key: less[key] + count * max(0, value - less[key]) for key, value in high.items()}

        return Plan(weights=grown("weights"), held=grown("held"), phases=grown("phases"))


def build(size: Size, dtype: torch.dtype, device: str = "meta") -> Any:
    """The video model over random networks, without data on `meta`; one expert stands for all.

    Types are those that loading at `dtype` gives: what a class keeps in float32 stays so.
    """
    parts: dict[str, Any] = {name: _network(getattr(size, name), dtype, device) for name in ("transformer", "vae")}
    parts["scheduler"] = _component(size.scheduler)
    pipeline_class = getattr(diffusers, size.pipeline)
    needed = inspect.signature(pipeline_class.__init__).parameters.values()
    parts |= {
        parameter.name: None
        for parameter in needed
        if parameter.name not in (*parts, "self") and parameter.default is parameter.empty
    }
    return family_of(FAMILIES[size.pipeline])(pipeline_class(**parts, **size.options))


def _component(made: Made) -> Any:
    kind = getattr(diffusers, made[0])
    known = inspect.signature(kind.__init__).parameters
    return kind(**{name: value for name, value in made[1].items() if name in known})


def _network(made: Made, dtype: torch.dtype, device: str) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            built = _component(made)
    finally:
        torch.set_default_dtype(before)
    kept = set(built._keep_in_fp32_modules or ())
    for name, weight in built.named_parameters():
        weight.data = weight.data.to(torch.float32 if kept & set(name.split(".")) else dtype)
    return built


class Planner(Generic[C]):
    """Plans of one model and trainer, which share what settings have in common.

    Args:
        workspace: what operators need beside their operands on a CPU, as `trainers.memory_plan.meter.cpu_workspace`
            says; None for a GPU.
    """

    def __init__(self, size: Size, step: Step[C], workspace: Workspace | None = None) -> None:
        self.size, self.step = size, step
        self.workspace: Workspace = workspace or (lambda func, args, made: 0)
        self.data = None if workspace else torch.device("cpu")  # beside a GPU, which gets copies of it
        self._decodes: dict[Any, DecodeCost] = {}
        self._models: dict[Any, VideoModel] = {}
        self._phases: dict[str, dict[str, int]] = {}

    def plan(self, config: C) -> Plan:
        """The plan of one step; num_frames, height and width given.

        Raises:
            ValueError: settings of another trainer, sizes that the autoencoder does not take, a mode that the model
                has not.
        """
        self.step.check(config)
        short = self.step.shortest(config)
        count = config.num_inference_steps - short.num_inference_steps
        if count <= 1:
            return self._of_layers(config)
        next_config = dataclasses.replace(short, num_inference_steps=short.num_inference_steps + 1)
        return self._of_layers(short).further(self._of_layers(next_config), count)

    def _of_layers(self, config: C) -> Plan:
        """The plan of the network's own numbers of blocks, one kind of block after the other beyond `FEW` of each."""
        layers = _layers(self.size)
        long = [name for name, count in layers.items() if count > FEW + 1]
        few = layers | dict.fromkeys(long, FEW)
        start = total = self._of(config, few)
        for name in long:
            larger_plan = start.further(self._of(config, few | {name: FEW + 1}), layers[name] - FEW)
            total = _sum(total, larger_plan, start)
        return total

    def _of(self, config: C, layers: dict[str, int]) -> Plan:
        """The plan of so many blocks of each kind."""
        model = self._model(config, layers)
        weights, held = self._held(config, model)
        prompts = {}
        if config.offload_text_encoder:
            prompts["prompts, encoders at hand"] = _bytes_of_text(self.size, config)
        return Plan(weights=weights, held=held, phases=prompts | self._run(config, layers, model))

    def _model(self, config: C, layers: dict[str, int]) -> VideoModel:
        """The video model of so many blocks, with what is trained of it."""
        key = (tuple(layers.items()), config.bf16, config.block_checkpointing)
        if key not in self._models:
            cut = (self.size.transformer[0], self.size.transformer[1] | layers)
            dtype = torch.bfloat16 if config.bf16 else torch.float32
            model = build(dataclasses.replace(self.size, transformer=cut), dtype)
            if self.step.full(config):
                model.transformer.requires_grad_(True)
            else:
                model.add_lora(r=config.lora_r, alpha=config.lora_r, targets=config.lora_target_modules)
            model.decode_in_tiles(config.decode_tile_px)
            if config.block_checkpointing:
                model.checkpoint_blocks()
            self._models[key] = model
        return self._models[key]

    def _held(self, config: C, model: VideoModel) -> tuple[dict[str, int], dict[str, int]]:
        """How many numbers there are, and the bytes of what stays."""
        experts, full = self.size.experts, self.step.full(config)
        trained = [weight for weight in model.transformer.parameters() if weight.requires_grad]
        apart = set() if full else set(trained)
        frozen = [weight for weight in model.pipeline.transformer.parameters() if weight not in apart]
        autoencoder = list(model.vae.parameters())
        weights = {"transformer": experts * _count(frozen), "autoencoder": _count(autoencoder)}
        weights["encoders"] = self.size.text_weights
        held = {"transformer": experts * _bytes(frozen), "autoencoder": _bytes(autoencoder)}
        if config.offload_transformer:
            each = [_bytes(set(block.parameters()) - apart) for block in blocks_of(model.pipeline.transformer)]
            held["transformer"] -= experts * sum(each) - AT_HAND * experts * max(each)
        held["encoders"] = 0 if config.offload_text_encoder else _bytes_of_text(self.size, config)
        if not full:
            weights["LoRA"] = _count(trained) * experts
            held["LoRA"] = _bytes(trained) * experts
        held["moments, average"] = (2 + (config.ema_decay > 0)) * _bytes(trained) * experts
        held |= {name: _bytes(trained) * experts for name in self.step.copies(config)}
        if experts > 1:
            held["gradients of the other expert"] = _bytes(trained)
        return weights, held

    def _run(self, config: C, layers: dict[str, int], model: VideoModel) -> dict[str, int]:
        """The most that is alive in each phase of a step, beside what stays."""
        key = f"{layers} {_of_phases(config)}"
        if key not in self._phases:
            meter = MemoryMeter(self.workspace)
            phase = MeteredPhases(meter, self.step.names)
            blank = Blank.of(model, config, phase, full=self.step.full(config), data=self.data)
            remember_decoding(model, meter, self._decodes)
            with fused_attention(), meter:
                loss = self.step.loss(config, blank)
                with phase("backward"):
                    loss.backward()
            for weight in blank.weights.values():
                weight.grad = None
            self._phases[key] = phase.peaks
        return self._phases[key]


def plan_memory(size: Size, config: C, step: Step[C], *, workspace: Workspace | None = None) -> Plan:
    """The plan of one step; also for sizes of your own."""
    return Planner(size, step, workspace).plan(config)


def _layers(size: Size) -> dict[str, int]:
    """How many blocks the transformer has of each kind."""
    known = inspect.signature(getattr(diffusers, size.transformer[0]).__init__).parameters
    names = [name for name in ("num_layers", "num_single_layers") if name in known]
    return {name: size.transformer[1].get(name, known[name].default) for name in names}


def _sum(plan: Plan, larger_plan: Plan, start: Plan) -> Plan:
    """`plan` with what `larger_plan` has beyond `start`."""

    def added(name: str) -> dict[str, int]:
        base, larger, less = getattr(plan, name), getattr(larger_plan, name), getattr(start, name)
        return {key: value + larger[key] - less[key] for key, value in base.items()}

    return Plan(weights=added("weights"), held=added("held"), phases=added("phases"))


def _of_phases(config: TrainerConfig) -> TrainerConfig:
    """The settings without what no phase of a step depends on."""
    plain: dict[str, Any] = {"offload_text_encoder": False, "offload_transformer": False, "ema_decay": 0.0}
    if config.guidance_scale == 1:
        plain["detach_negative"] = False
    return dataclasses.replace(config, **plain)


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _bytes_of_text(size: Size, config: TrainerConfig) -> int:
    return size.text_weights * (2 if config.bf16 else 4)

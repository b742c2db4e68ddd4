"""A training step on clips of no content: what a trainer gives the plan of memory, and what its loss runs on.

Axes: B clips, L text tokens, D features.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from reward_physics.video import Video
from trainers.learning.batches import Batch, condition_on
from trainers.learning.clocks import Phases
from trainers.learning.figures import Processes
from trainers.learning.scoring import Scorer
from trainers.learning.streams import clip_generators
from trainers.memory_plan.meter import MemoryMeter
from trainers.models.base import Condition, VideoModel, lora_parameters
from trainers.settings.common import GenerationConfig, TrainerConfig

C = TypeVar("C", bound=TrainerConfig)
FEW = 2
"""Rollouts of more steps and networks of more blocks are planned from those of `FEW` and one more: what a further one
adds is always the same."""


class BlankScenes:
    """Clips of no content, of the size that the settings give. They take no memory; copies of them do.

    Args:
        device: where they lie, as the data's clips lie on the CPU.
    """

    def __init__(self, config: GenerationConfig, device: torch.device) -> None:
        assert config.num_frames is not None and config.height is not None and config.width is not None
        self.shape, self.device = (config.num_frames, 3, config.height, config.width), device

    def __len__(self) -> int:
        return 1

    def batch(self, numbers: list[int]) -> Batch:
        count = len(numbers)
        frames = torch.zeros((), device=self.device).expand(count, *self.shape)
        video = Video(frames_BTCHW=frames, fps_B=torch.full((count,), 16.0))
        return Batch(video=video, captions=[""] * count, ids=["blank"] * count, columns={}, numbers=numbers)


class _NoGradient(torch.autograd.Function):
    """Rewards of 0, with a gradient of zeros. The rewards lie on the CPU, where they can be read."""

    @staticmethod
    def forward(ctx: Any, frames_BTCHW: Tensor) -> Tensor:
        ctx.save_for_backward(frames_BTCHW)
        return torch.zeros(len(frames_BTCHW))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.zeros_like(ctx.saved_tensors[0])


class BlankRecipe:
    """Stands in for a recipe: every clip scores 0, and the gradient at its pixels is 0."""

    terms: tuple[()] = ()
    gates: tuple[()] = ()
    config = types.SimpleNamespace(aggregation="sum", unmeasurable=0.0, visibility_weight=0.0)

    def score(self, video: Video, columns: dict[str, Any], grad: bool) -> Any:
        with torch.set_grad_enabled(grad):
            total_B: Any = _NoGradient.apply(video.frames_BTCHW)
        ones_B = torch.ones(video.batch_size, dtype=torch.bool)
        reasons = [None] * video.batch_size
        return types.SimpleNamespace(total_B=total_B, terms={}, measurable_B=ones_B, reasons=reasons, observation=None)

    def total(self, terms: dict[str, Tensor], seen_B: Tensor) -> tuple[Tensor, None]:
        """Of clips that were judged in parts."""
        return torch.zeros_like(seen_B), None


class MeteredPhases(Phases):
    """The peak of each of a trainer's phases and of their parts, in bytes.

    Args:
        names: what the plan calls them, where not by their own names; the empty name is no phase of its own.
    """

    def __init__(self, meter: MemoryMeter, names: Mapping[str, str]) -> None:
        super().__init__()
        self.meter = meter
        self.names = {"reward": "decode", "predict": "prediction", "wait": "", "regularisers": ""} | dict(names)
        self.peaks: dict[str, int] = {}
        self._open: list[str] = []
        self._last: str | None = None

    def _note(self) -> None:
        """What was alive since the last note is the innermost phase's, or between two of them the last one's."""
        peak, name = self.meter.take_peak(), self._open[-1] if self._open else self._last
        if name is not None:
            self.peaks[name] = max(self.peaks[name], peak)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        name = self.names.get(name, name)
        if not name:
            yield
            return
        self._note()
        self._open.append(name)
        self.peaks.setdefault(name, 0)
        try:
            yield
        finally:
            self._note()
            self._last = self._open.pop()

    def part(self, name: str) -> contextlib.AbstractContextManager[None]:
        return self(name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blank:
    """All that a trainer's loss runs on.

    Args:
        model: with a LoRA, or with all its weights free; its text is blank.
        weights: those that are trained, by name.
        phase: the phases of the step.
        processes: none but this one.
    """

    model: VideoModel
    weights: dict[str, nn.Parameter]
    scenes: BlankScenes
    recipe: Scorer
    phase: Phases
    processes: Processes

    @classmethod
    def of(
        cls,
        model: VideoModel,
        config: TrainerConfig,
        phase: Phases,
        *,
        full: bool = False,
        data: torch.device | None = None,
    ) -> Blank:
        """Over a model that is on its device and has what is trained of it.

        Args:
            data: where the data's clips lie; by default on the model's device.
        """
        read_nothing(model)
        network = model.transformer
        return cls(
            model=model,
            weights=dict(network.named_parameters()) if full else lora_parameters(network),
            scenes=BlankScenes(config, data or model.device),
            recipe=BlankRecipe(),
            phase=phase,
            processes=Processes(gather=lambda value_B: torch.zeros(len(value_B))),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step(Generic[C]):
    """A trainer's step, as the plan of memory runs it.

    Args:
        settings: the class of the trainer's settings.
        loss: the trainer's own loss of one micro-batch, and what it makes before.
        shortest: settings of the shortest rollout from which on every further step adds the same.
        full: whether every weight of the transformer is trained.
        copies: copies of the trained weights that stay beside them, by name.
        names: what the plan calls the trainer's phases, where not by their own names.
    """

    settings: type[C]
    loss: Callable[[C, Blank], Tensor]
    shortest: Callable[[C], C] = lambda config: config
    full: Callable[[C], bool] = lambda config: False
    copies: Callable[[C], Sequence[str]] = lambda config: ()
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def check(self, config: TrainerConfig) -> None:
        """Raise ValueError where the settings are those of another trainer."""
        if not isinstance(config, self.settings):
            raise ValueError(
                f"a plan of memory with the step of {self.settings.__name__} needs its settings, got "
                f"{type(config).__name__}: give the step of the trainer that the settings are of"
            )


def read_nothing(model: VideoModel) -> None:
    """From now on the model reads prompts of no content, as long as it takes them, without encoders."""
    length, width = model.text_shape
    pooled_width = model.pipeline.transformer.config.get("pooled_projection_dim")

    def encode_prompt(prompts: Sequence[str]) -> tuple[Tensor, ...]:
        shapes = [(length, width), *([(pooled_width,)] if pooled_width else [])]
        features, *pooled = (
            torch.zeros(len(prompts), *shape, dtype=model.dtype, device=model.device) for shape in shapes
        )
        return features, torch.ones(features.shape[:2], dtype=torch.bool, device=model.device), *pooled

    model.encode_prompt = encode_prompt
    model.read = lambda prompts, first_frames_BCHW: encode_prompt(prompts)
    model.trims_text = False


def blank_condition(model: VideoModel, config: TrainerConfig) -> Condition:
    """What a micro-batch of clips of no content is generated from."""
    read_nothing(model)
    numbers = list(range(config.per_device_train_batch_size))
    batch = BlankScenes(config, model.device).batch(numbers)
    return condition_on(model, batch, config, clip_generators(config.seed, numbers))

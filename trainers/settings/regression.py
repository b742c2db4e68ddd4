"""Settings of the trainers that learn by regression on clips: reward-weighted, and supervised on simulated ones."""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
from dataclasses import dataclass
from typing import Literal

import pydantic

from trainers.settings.common import TrainerConfig, check_offload, check_report_to
from trainers.settings.options import Count, Fraction, Positive, Rate, Weight, check_acting, check_range, option, strict


def check_trained_levels(trained: list[float], active: list[float]) -> None:
    """Raise ValueError where the adapter would learn at noise levels at which it is switched off in sampling."""
    if not active[0] <= trained[0] <= trained[1] <= active[1]:
        raise ValueError(
            f"denoising_sigma_range must lie within adapter_sigma_range {active}, where the adapter samples, got "
            f"{trained}: narrow the one or widen the other"
        )


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """How rewards become weights.

    Args:
        temperature: reward difference that makes a factor e, after the normalisation of the advantage.
        target_ess: where > 0, the temperature is found anew each time so that the mean effective sample size of the
            groups is this share of their measurable clips.
        advantage: `none` leaves rewards as they are, `group` divides by the group's standard deviation, `batch` by
            that of all rewards.
        top_k: where > 0, only the best k of a group count (best of N); of equal ones the first.
        max_weight: where > 0, the largest weight relative to the group's mean.
        absolute_scale: scale of the absolute weight in units of the reward; 0 turns it off.
        absolute_reward: the reward of a good sample, whose absolute weight is 1.
        signed: weights in [-1, 1] by the rank within a group; nothing else of these settings counts then.
    """

    temperature: float = 0.1
    target_ess: float = 0.0
    advantage: Literal["none", "group", "batch"] = "none"
    top_k: int = 0
    max_weight: float = 0.0
    absolute_scale: float = 0.25
    absolute_reward: float = 0.0
    signed: bool = False


@strict
class RWRConfig(TrainerConfig):
    """Reward-weighted regression: sample, score, weight, regress, repeat."""

    output_dir: str = option("outputs/rwr", "folder of checkpoints, logs, videos, kept clips and the final LoRA")
    recipe: str = option("configs/recipes/gravity.yaml", "YAML recipe of rewards, differentiable or not")
    scored: list[str] = option(
        [], "folders of sampled and scored clips (`trainers.sample`, `trainers.score_clips`) to learn from, unchanged"
    )
    num_generations: Positive = option(8, "samples of each prompt, which are compared with each other")
    prompts_per_round: Positive = option(8, "prompts of a round, over all processes")
    inner_steps: Positive = option(8, "optimizer steps on a round's clips before the next round is sampled")
    replay_rounds: Positive = option(1, "rounds whose clips are kept on disk and learned from")
    sampling_batch_size: Positive = option(16, "clips made and scored at a time by a process")
    weighting: Literal["reward", "signed", "uniform"] = option(
        "reward",
        "signed learns from bad samples too, by ranks in [-1, 1]; uniform is the control: plain fine-tuning on "
        "the model's own samples",
    )
    signed_beta: Rate = option(1.0, "where signed: a smaller one goes further from the policy that made the samples")
    temperature: Rate = option(0.1, "reward difference that makes a factor e in the weight; not where signed")
    target_ess: Fraction = option(
        0.0, "where > 0, find the temperature that holds this effective sample size, as a share of a group"
    )
    advantage: Literal["none", "group", "batch"] = option("none", "what reward differences are divided by: 1 or a std")
    top_k: Count = option(0, "learn from the best k samples of a prompt alone; 0 is all")
    max_weight: Weight = option(0.0, "largest weight relative to the mean of its group; 0 is no bound")
    absolute_scale: Weight = option(
        0.25, "a group whose weighted reward lies this far below absolute_reward counts 1 / e; 0 counts all alike"
    )
    absolute_reward: float = option(0.0, "reward of a good sample")
    denoising_sigma_range: list[float] = option([0.0, 1.0], "noise levels of the regression")
    reference_weight: Weight = option(0.0, "weight of |adapter-on minus adapter-off prediction|^2")
    reference_sigma_range: list[float] = option([0.0, 1.0], "noise levels of that distance")

    @pydantic.model_validator(mode="after")
    def _check(self) -> "RWRConfig":
        for name in ("denoising_sigma_range", "reference_sigma_range"):
            check_range(name, getattr(self, name))
        check_trained_levels(self.denoising_sigma_range, self.adapter_sigma_range)
        if self.reference_weight > 0:
            check_acting("reference_sigma_range", self.reference_sigma_range, self.adapter_sigma_range)
        compares = self.weighting == "signed" or (self.weighting == "reward" and self.absolute_scale == 0)
        if compares and self.num_generations == 1 and not self.scored:
            raise ValueError(
                f"num_generations must be above 1 where weighting {self.weighting} compares the samples of a prompt, "
                "got 1: no reward would teach anything"
            )
        if self.top_k > self.num_generations and not self.scored:
            raise ValueError(f"top_k must be at most num_generations {self.num_generations}, got {self.top_k}")
        if self.weighting == "signed" and (self.scored or self.replay_rounds > 1):
            raise ValueError(
                "weighting signed compares with the policy that made the samples: leave scored empty, replay_rounds 1"
            )
        check_report_to(self.report_to)
        check_offload(self)
        return self

    @property
    def how(self) -> Weighting:
        """How rewards become weights."""
        return Weighting(
            temperature=self.temperature,
            target_ess=self.target_ess,
            advantage=self.advantage,
            top_k=self.top_k,
            max_weight=self.max_weight,
            absolute_scale=self.absolute_scale,
            absolute_reward=self.absolute_reward,
            signed=self.weighting == "signed",
        )


@strict
class PSFTConfig(TrainerConfig):
    """Supervised fine-tuning on simulated clips, with an explicit physics loss where wanted."""

    output_dir: str = option("outputs/psft", "folder of checkpoints, logs, videos and the final LoRA or model")
    full: bool = option(False, "train every weight of the transformer instead of a LoRA; leaves a whole pipeline")
    denoising_sigma_range: list[float] = option([0.0, 1.0], "noise levels of the denoising loss")
    physics_weight: Weight = option(0.0, "weight of the squared residual of the predicted clean clip; 0 is none")
    physics_sigma_range: list[float] = option([0.0, 0.8], "noise levels at which the clean clip is predicted")
    recipe: str = option(
        "configs/recipes/gravity.yaml", "recipe whose reward is minus that residual, and that evaluates"
    )
    max_pixel_grad_ratio: Rate = option(
        4.0, "a clip's pixel gradient is scaled down to this many times the median norm of its batch"
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> "PSFTConfig":
        for name in ("denoising_sigma_range", "physics_sigma_range"):
            check_range(name, getattr(self, name))
        check_trained_levels(self.denoising_sigma_range, self.adapter_sigma_range)
        if self.physics_weight > 0 and not self.full:
            check_acting("physics_sigma_range", self.physics_sigma_range, self.adapter_sigma_range)
        if self.full and self.bf16:
            raise ValueError("full trains the network's own weights, which bf16 would keep from moving: set bf16 false")
        if self.full and self.lora_path:
            raise ValueError("give either full or lora_path: a LoRA is not merged before full fine-tuning")
        check_report_to(self.report_to)
        check_offload(self)
        return self

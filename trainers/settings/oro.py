"""Settings of ORO."""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
from typing import Literal

import pydantic

from trainers.settings.common import TrainerConfig, check_offload, check_report_to
from trainers.settings.options import Count, Positive, Rate, Weight, check_acting, check_range, option, strict


@strict
class OROConfig(TrainerConfig):
    """Optimisation of a differentiable reward through the rollout."""

    recipe: str = option("configs/recipes/gravity.yaml", "YAML recipe of rewards")
    reward_weight: Weight = option(1.0, "weight of the reward; 0 is the control that learns from the rest alone")
    max_pixel_grad_ratio: Rate = option(
        4.0, "a clip's pixel gradient is scaled down to this many times the median norm of its batch"
    )
    log_reward_gradients: bool = option(
        False,
        "log the norm of each reward's own pixel gradient and the cosine of every two; one more backward a reward",
    )
    grad_steps: Literal["full", "last", "random", "early", "one_step"] = option(
        "full", "denoising steps that carry gradient; one_step decodes the clean clip that one step predicts"
    )
    grad_steps_k: Positive = option(1, "how many steps for last, random and early")
    detach_input: bool = option(False, "cut the gradient at the network's input: each step learns on its own")
    reference_weight: Weight = option(1.0, "weight of |adapter-on minus adapter-off prediction|^2")
    reference_sigma_range: list[float] = option(
        [0.0, 0.6], "noise levels of that distance: below those at which motion is decided (`trainers.commitment`)"
    )
    reference_steps: Positive = option(2, "rollout steps of that range drawn each step to estimate the distance")
    denoising_weight: Weight = option(0.0, "weight of the denoising loss on the data's clips")
    denoising_sigma_range: list[float] = option([0.0, 1.0], "noise levels of the denoising loss")
    gradient_checkpointing: bool = option(
        True, "evaluate the network again in backward, step by step: less memory, a third slower"
    )
    reward_num_frames: Positive | None = option(
        None, "first frames that the reward is shown: Wan and CogVideoX then decode no more; by default all"
    )
    decode_checkpointing: bool = option(False, "decode again in backward, in pieces")
    decode_chunk_size: Count = option(
        0, "clips decoded, measured and carried back to the latents at a time; 0 is all: faster, more memory"
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> "OROConfig":
        check_offload(self)
        for name in ("reference_sigma_range", "denoising_sigma_range"):
            check_range(name, getattr(self, name))
        if self.denoising_weight > 0:
            check_acting("denoising_sigma_range", self.denoising_sigma_range, self.adapter_sigma_range)
        if self.image_conditioning and self.reward_weight > 0 and self.reward_num_frames == 1:
            raise ValueError(
                "reward_num_frames must be above 1 where image_conditioning gives the first frame, got 1: the reward "
                "would see what cannot be changed"
            )
        if self.grad_steps_k > self.num_inference_steps:
            raise ValueError(
                f"grad_steps_k must be at most num_inference_steps {self.num_inference_steps}, got {self.grad_steps_k}"
            )
        if not (self.reward_weight or self.reference_weight or self.denoising_weight):
            raise ValueError("reward_weight, reference_weight and denoising_weight are all 0: nothing would be learned")
        check_report_to(self.report_to)
        return self

"""The memory of a step of a published model, with no weights present.

python -m trainers.memory_plan --size wan2.1-1.3b --num_frames 81 --height 480 --width 832
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.

import diffusers

from trainers.memory_plan.report import report
from trainers.models.sizes import SIZES, find_size
from trainers.oro import STEP
from trainers.settings.options import exit_with_one_line, option, parse_config, strict
from trainers.settings.oro import OROConfig


@strict
class PlanConfig(OROConfig):
    """Memory of an ORO step of a published model, before anything is downloaded; every exact saving is on."""

    size: str = option("wan2.1-1.3b", f"one of {', '.join(SIZES)}, a pipeline folder or a published pipeline")
    num_frames: int = option(81, "frames a clip")
    height: int = option(480, "rows of a clip in px")
    width: int = option(832, "columns of a clip in px")
    per_device_train_batch_size: int = option(1, "clips a process and micro-batch")
    image_conditioning: bool = option(False, "give the model the first frame")
    reference_steps: int = option(1, "rollout steps drawn each step to estimate the distance to the reference")
    bf16: bool = option(True, "keep the frozen networks in bfloat16; the LoRA stays in float32")
    block_checkpointing: bool = option(True, "evaluate each block of the network again in backward")
    offload_text_encoder: bool = option(True, "keep text and image encoders on the CPU while they are not asked")
    decode_checkpointing: bool = option(True, "evaluate the decoder again in backward, in pieces")


def main() -> None:
    diffusers.utils.logging.set_verbosity_error()  # casting networks without data loses nothing
    config = parse_config(PlanConfig)
    print(report(find_size(config.size), config, STEP, config.memory_gib or 80))


if __name__ == "__main__":
    exit_with_one_line(main)

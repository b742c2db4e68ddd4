"""A LoRA added to the weights under it: a plain pipeline folder, which needs no PEFT.

python -m trainers.merge --model_name_or_path data/drops/model --lora_path outputs/oro_drops --output_dir outputs/merged
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
from pathlib import Path

from trainers.models import load_video_model
from trainers.settings.options import exit_with_one_line, option, parse_config, strict


@strict
class MergeConfig:
    """Write a pipeline with a LoRA merged into it."""

    model_name_or_path: str = option("data/drops/model", "diffusers pipeline: a folder or a hub name")
    lora_path: str = option("outputs/oro_drops", "LoRA file or folder in the stock format")
    output_dir: str = option("outputs/merged", "folder for the pipeline; must not exist")


def merge(config: MergeConfig) -> None:
    """Load, merge, write.

    Raises:
        ValueError: output_dir exists, or the LoRA does not fit.
    """
    if Path(config.output_dir).exists():
        raise ValueError(f"output_dir {config.output_dir} exists already: give a new folder")
    model = load_video_model(config.model_name_or_path)
    model.load_lora(config.lora_path)
    model.merge_lora()
    model.pipeline.save_pretrained(config.output_dir)
    print(f"merged pipeline is in {config.output_dir}")


if __name__ == "__main__":
    exit_with_one_line(lambda: merge(parse_config(MergeConfig)))

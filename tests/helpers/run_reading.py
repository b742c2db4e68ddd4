"""What a run of a trainer left."""

from pathlib import Path

from safetensors.torch import load_file


def lora_of(config):
    """The LoRA that a run ended with, by name."""
    return load_file(Path(config.output_dir) / "pytorch_lora_weights.safetensors")

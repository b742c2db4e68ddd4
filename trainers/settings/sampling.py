"""How clips are sampled outside a training: by flags, else as the run that made the LoRA did, else by default."""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from trainers.settings.options import Count, Positive, option, read_yaml, strict

RUN = "by default as in the LoRA's run"


@strict
class SamplingConfig:
    """The sampler; None is what the run of the LoRA did, and the trainers' default where no run says it."""

    num_inference_steps: Positive | None = option(None, f"denoising steps; {RUN}, otherwise 8")
    guidance_scale: Annotated[float, Field(ge=1)] | None = option(
        None, f"classifier-free guidance, 1 is none; {RUN}, otherwise 1"
    )
    negative_prompt: str | None = option(None, f"prompt of the unguided branch where guidance_scale > 1; {RUN}")
    image_conditioning: bool | None = option(
        None, f"give the model the first frame; {RUN}, otherwise wherever the model takes one"
    )
    bf16: bool | None = option(
        None, f"load the networks in bfloat16; {RUN} on a GPU, otherwise float32, and always on a CPU"
    )
    offload_text_encoder: bool | None = option(None, f"keep text and image encoders on the CPU while idle; {RUN}")
    offload_transformer: bool | None = option(None, f"keep the blocks' weights on the CPU while they are idle; {RUN}")
    decode_tile_px: Count | None = option(None, f"decode overlapping squares of this side, 0 is the whole; {RUN}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """The sampler of all clips that are compared, see `SamplingConfig`; the model decides `image_conditioning` None."""

    num_inference_steps: int = 8
    guidance_scale: float = 1.0
    negative_prompt: str = ""
    image_conditioning: bool | None = None
    bf16: bool = False
    offload_text_encoder: bool = False
    offload_transformer: bool = False
    decode_tile_px: int = 0


NAMES = tuple(field.name for field in dataclasses.fields(Sampling))
MEMORY = ("bf16", "offload_text_encoder", "offload_transformer")
"""What a run on a GPU needed to fit; a CPU's figures stay in float32."""


def run_settings(path: str | Path | None) -> dict[str, Any]:
    """How the run that made a LoRA sampled, by the config.yaml beside it or one folder up; empty without one."""
    if path is None:
        return {}
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    for place in (folder, folder.parent):
        if (place / "config.yaml").exists():
            values = read_yaml(place / "config.yaml")
            settings = {name: values[name] for name in (*NAMES, "adapter_sigma_range") if values.get(name) is not None}
            return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    return {}


def sampling_of(config: SamplingConfig, runs: Mapping[str, Mapping[str, Any]], *, on_gpu: bool) -> Sampling:
    """One sampler for clips that are compared.

    Args:
        runs: how each arm was sampled before, by its name: the `run_settings` of its LoRA; empty where nothing is said.
        on_gpu: whether what a run did to fit a GPU holds here too.

    Raises:
        ValueError: runs that sampled differently where no flag decides, with every difference.
    """
    values, apart = {}, []
    for name in NAMES:
        flag = getattr(config, name)
        said = {arm: run[name] for arm, run in runs.items() if name in run}
        if flag is not None:
            values[name] = flag
        elif name in MEMORY:
            values[name] = on_gpu and any(said.values())
        elif len(set(said.values())) > 1:
            apart.append(f"{name} ({', '.join(f'{arm}: {value!r}' for arm, value in said.items())})")
        elif said:
            values[name] = next(iter(said.values()))
    if apart:
        raise ValueError(
            f"the LoRAs' runs sampled with another {', '.join(apart)}: give these settings as flags, for all arms alike"
        )
    return Sampling(**values)

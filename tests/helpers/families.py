"""Every family, layout and mode that an adapter supports: its tiny pipeline, and what the stock pipeline samples."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import PIL.Image
import torch
from diffusers import LTXImageToVideoPipeline, WanImageToVideoPipeline
from diffusers.models import normalization
from diffusers.models.transformers import transformer_ltx

from trainers.models import FAMILIES
from trainers.models.cogvideox import CogVideoXModel
from trainers.models.hunyuan import HunyuanVideoModel
from trainers.models.ltx import LTXModel
from trainers.models.tiny.cogvideox import tiny_cogvideox
from trainers.models.tiny.hunyuan import tiny_hunyuan
from trainers.models.tiny.ltx import tiny_ltx
from trainers.models.tiny.wan import tiny_wan
from trainers.models.wan import WanModel

SIZE = {"num_frames": 9, "height_px": 32, "width_px": 32}
PROMPTS = ["a red ball falls", "a blue box slides onto tiles"]
NUM_STEPS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One way to sample: `make` gives a pipeline, the same each time; `options` are its call's own."""

    name: str
    make: Callable[..., Any]
    adapter: type
    image: bool = False
    pinned: bool = False
    guided: bool = True
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def images() -> torch.Tensor:
    """First frames of 8 bits, as pictures have them."""
    drawn = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return (drawn * 255).round() / 255


def seeds() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)]


def stock_pipeline(family: Family, pipeline: Any) -> Any:
    """The stock pipeline of the mode over the same components."""
    if family.name == "ltx-i2v":
        return LTXImageToVideoPipeline(**pipeline.components)
    if family.name.startswith("wan-ti2v-image"):
        return WanImageToVideoPipeline(**pipeline.components, expand_timesteps=True)
    return pipeline


def stock_sample(family: Family, pipeline: Any, *, guidance: float) -> torch.Tensor:
    """frames_BTCHW of the stock pipeline, clip by clip, as some pipelines take only one first frame."""
    pipeline = stock_pipeline(family, pipeline)
    pipeline.set_progress_bar_config(disable=True)
    clips = []
    for prompt, image, generator in zip(PROMPTS, images(), seeds(), strict=True):
        picture = PIL.Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
        extra = 4 if family.name == "hunyuan-latent_concat" else 0  # the stock pipeline drops its first four frames
        options = dict(family.options) | ({"image": picture} if family.image else {})
        output = pipeline(
            prompt=[prompt],
            num_frames=SIZE["num_frames"] + extra,
            height=SIZE["height_px"],
            width=SIZE["width_px"],
            num_inference_steps=NUM_STEPS,
            guidance_scale=guidance,
            generator=[generator],
            output_type="pt",
            **options,
        )
        clips.append(output.frames)
    return torch.cat(clips)


def keep_float64(monkeypatch: Any) -> None:
    """Replace what stock code rounds to float32 on its way: LTX's rotary embedding, norms, casts."""

    def rotate(x, freqs):
        cos, sin = freqs
        real, imaginary = x.unflatten(2, (-1, 2)).unbind(-1)
        return x * cos + torch.stack([-imaginary, real], dim=-1).flatten(2) * sin

    def normalise(self, x):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return x if self.weight is None else x * self.weight

    monkeypatch.setattr(transformer_ltx, "apply_rotary_emb", rotate)
    monkeypatch.setattr(normalization.RMSNorm, "forward", normalise)
    kept = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self if self.dtype == torch.float64 else kept(self))


def condition_of(family: Family, model: Any, *, guidance: float = 1.0, generators: Any = None) -> Any:
    first = images().to(model.latent_dtype) if family.image else None
    return model.condition(
        PROMPTS, fps=16.0, **SIZE, first_frames_BCHW=first, guidance_scale=guidance, generators=generators
    )


def _families() -> list[Family]:
    negative = {"negative_prompt": [""]}
    families = [
        Family(name="ltx-t2v", make=tiny_ltx, adapter=LTXModel, options=negative | {"frame_rate": 16.0}),
        Family(
            name="ltx-i2v",
            make=tiny_ltx,
            adapter=LTXModel,
            options=negative | {"frame_rate": 16.0},
            image=True,
            pinned=True,
        ),
    ]
    for layout in ("t2v", "i2v", "a14b", "a14b_i2v", "ti2v", "ti2v-image"):
        for euler in (False, True):
            families.append(
                Family(
                    name=f"wan-{layout}" + "-euler" * euler,
                    make=functools.partial(tiny_wan, layout=layout.split("-")[0], euler=euler),
                    adapter=WanModel,
                    image=layout.endswith(("i2v", "image")) and layout != "ti2v",
                    pinned=layout == "ti2v-image",
                    options=negative,
                )
            )
    for layout in ("t2v", "t2v_1.5", "i2v", "i2v_1.5"):
        make = functools.partial(tiny_cogvideox, layout=layout)
        options = negative | {"max_sequence_length": 32}
        image = layout.startswith("i2v")
        families.append(
            Family(name=f"cogvideox-{layout}", make=make, adapter=CogVideoXModel, image=image, options=options)
        )
    for layout in ("t2v", "token_replace", "latent_concat"):
        families.append(
            Family(
                name=f"hunyuan-{layout}",
                make=functools.partial(tiny_hunyuan, layout=layout),
                adapter=HunyuanVideoModel,
                image=layout != "t2v",
                pinned=layout == "token_replace",
                guided=layout != "latent_concat",
            )
        )
    return families


ALL = _families()
BY_NAME = {family.name: family for family in ALL}
ONE_EACH = [family for family in ALL if not family.name.endswith("-euler")]
assert {family.adapter.__name__ for family in ALL} == {path.split(":")[1] for path in FAMILIES.values()}

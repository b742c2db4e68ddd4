"""Depth networks of `transformers` (Depth Anything V2, ZoeDepth) with preprocessing that gradients pass through.

Hugging Face's image processors work on arrays of bytes; here the same steps are tensor operations: pad (ZoeDepth),
resize to sides that are a multiple of the network's patch, normalise; and back to the size of the frames afterwards.

Axes: B clips, T frames, N = B T frames, C colours (3), H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reward_physics.camera import Camera
from reward_physics.estimators.depth import Depth, DepthEstimator
from reward_physics.estimators.flow import check_frames
from reward_physics.estimators.weights import freeze


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What a model's image processor does to an image, by its own names."""

    height_px: int
    width_px: int
    """Size near which the network works."""
    multiple_px: int
    """Sides become multiples of this: the patch size or the backbone's stride."""
    keep_aspect: bool = True
    pads: bool = False
    """Mirror the edges outwards by 3 sqrt(side / 2) px first, and cut them off afterwards."""
    bicubic: bool = True
    """Bicubic and antialiased (DPT's processor), or bilinear with aligned corners (ZoeDepth's)."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @staticmethod
    def of_processor(processor: Any) -> Preprocessing:
        """The settings of a Hugging Face image processor."""
        size = processor.size
        pads = bool(processor.do_pad)
        return Preprocessing(
            height_px=int(size["height"]),
            width_px=int(size["width"]),
            multiple_px=int(processor.ensure_multiple_of),
            keep_aspect=bool(processor.keep_aspect_ratio),
            pads=pads,
            bicubic=not pads,
            mean=tuple(processor.image_mean),
            std=tuple(processor.image_std),
        )

    def padding(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns mirrored outwards on each side."""
        return (int(math.sqrt(height / 2) * 3), int(math.sqrt(width / 2) * 3)) if self.pads else (0, 0)

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that the network sees of a (padded) image."""
        down, right = self.height_px / height, self.width_px / width
        if self.keep_aspect:
            down = right = right if abs(1 - right) < abs(1 - down) else down
        rows, columns = (
            max(1, round(side * scale / self.multiple_px)) * self.multiple_px
            for side, scale in ((height, down), (width, right))
        )
        return rows, columns

    def apply(self, images_NCHW: Tensor) -> Tensor:
        """Images in [0, 1] as the network takes them."""
        rows, columns = self.padding(*images_NCHW.shape[-2:])
        if rows or columns:
            images_NCHW = F.pad(images_NCHW, (columns, columns, rows, rows), mode="reflect")
        size = self.working_size(*images_NCHW.shape[-2:])
        if self.bicubic:
            images_NCHW = F.interpolate(images_NCHW, size=size, mode="bicubic", align_corners=False, antialias=True)
        else:
            images_NCHW = F.interpolate(images_NCHW, size=size, mode="bilinear", align_corners=True)
        mean, std = (images_NCHW.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (images_NCHW - mean) / std

    def undo(self, depth_NHW: Tensor, height: int, width: int) -> Tensor:
        """A predicted depth at the size of the images, (N, height, width), without the padding."""
        rows, columns = self.padding(height, width)
        size = (height + 2 * rows, width + 2 * columns)
        depth = F.interpolate(depth_NHW[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        return depth[:, rows : rows + height, columns : columns + width]


ZOE_DEFAULTS = Preprocessing(
    height_px=384, width_px=512, multiple_px=32, pads=True, bicubic=False, mean=(0.5,) * 3, std=(0.5,) * 3
)
DEPTH_ANYTHING_DEFAULTS = Preprocessing(height_px=518, width_px=518, multiple_px=14)


class TransformersDepth(DepthEstimator):
    """A depth network of `transformers` on clips, frame by frame.

    Args:
        network: returns `predicted_depth` (N, h, w) for `pixel_values` (N, 3, h', w').
        metric: metres, or inverse depth without scale (larger is nearer).
        preprocessing: what the network expects of its images.
        batch_frames: frames at a time; bounds memory.
        autocast: run matrix products in bfloat16.
    """

    def __init__(
        self,
        network: Callable[..., Any] | nn.Module,
        *,
        metric: bool,
        preprocessing: Preprocessing,
        batch_frames: int = 16,
        autocast: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.metric, self.preprocessing = network, metric, preprocessing
        self.batch_frames, self.autocast = batch_frames, autocast
        freeze(self)

    def forward(self, frames_BTCHW: Tensor, camera: Camera | None = None) -> Depth:
        check_frames(frames_BTCHW, "depth")
        batch, frames, _, height, width = frames_BTCHW.shape
        parts = []
        for images in frames_BTCHW.flatten(0, 1).split(self.batch_frames):
            pixels = self.preprocessing.apply(images)
            with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.autocast):
                predicted = self.network(pixel_values=pixels).predicted_depth
            parts.append(self.preprocessing.undo(predicted.float(), height, width))
        return Depth(depth_BTHW=torch.cat(parts).view(batch, frames, height, width), metric=self.metric)


def load_transformers_depth(name: str, *, autocast: bool = False) -> TransformersDepth:
    """Depth Anything (V2, relative or metric) or ZoeDepth by hub name or folder.

    Raises:
        ValueError: the model cannot be loaded, or is of another family.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

    try:
        config = AutoConfig.from_pretrained(name)
        if config.model_type not in ("depth_anything", "zoedepth"):
            raise ValueError(f"expected model_type depth_anything or zoedepth, got {config.model_type}")
        network = AutoModelForDepthEstimation.from_pretrained(name, dtype=torch.float32)
    except Exception as error:  # transformers raises many kinds for a name, a network, a file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise ValueError(f"depth: cannot load {name!r} ({reason}): check the name, the files or the network") from error
    try:
        preprocessing = Preprocessing.of_processor(AutoImageProcessor.from_pretrained(name))
    except OSError:  # the folder has no preprocessor_config.json
        preprocessing = ZOE_DEFAULTS if config.model_type == "zoedepth" else DEPTH_ANYTHING_DEFAULTS
    metric = config.model_type == "zoedepth" or config.depth_estimation_type == "metric"
    return TransformersDepth(network, metric=metric, preprocessing=preprocessing, autocast=autocast)

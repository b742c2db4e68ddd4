"""Scenes to generate clips for: rows of a split in an order that a step number alone decides.

Clip number n of a run is the same scene with the same noise whatever the batch size, the number of processes or the
step at which the run was resumed. Axes: B clips, T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq
import torch
from datasets import Features
from torch import Tensor

from data import rows as data_rows
from reward_physics.video import Video
from trainers.learning.of_text import columns_of_text, without_scene
from trainers.learning.streams import shuffled
from trainers.models.base import Condition, VideoModel
from trainers.settings.common import DataConfig, GenerationConfig
from trainers.settings.options import suggestion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Some scenes: the data's own clips, their captions and the columns that rewards may ask for."""

    video: Video
    captions: list[str]
    ids: list[str]
    columns: dict[str, Any]
    numbers: list[int]


class BatchSource(Protocol):
    """Scenes or clips by their numbers."""

    def __len__(self) -> int: ...

    def batch(self, numbers: list[int], /) -> Batch: ...


class Scenes:
    """The rows of a split that a config keeps, shuffled anew each epoch.

    Args:
        own_clips: the clips that are judged are the data's own, or made from them. Otherwise what the rows know of
            their scenes is withheld where the model is given no first frame: it draws another scene.

    Raises:
        ValueError: no such split, or no row is left.
    """

    def __init__(
        self, config: DataConfig, split: str, *, seed: int = 0, shuffle: bool = True, own_clips: bool = False
    ) -> None:
        self.of_text = not (config.image_conditioning or own_clips)
        root = None if config.dataset == "drops" else Path(config.dataset)
        if root is not None and not root.is_dir():
            raise ValueError(f"dataset must be `drops` or a folder of splits, but {config.dataset} does not exist")
        if Path(split).name != split or split == "..":
            raise ValueError(f"a split must be the name of a folder in dataset and no path, got {split!r}")
        table = data_rows.load_split(split, root)
        missing = sorted(set(data_rows.LIGHT_COLUMNS) - set(table.column_names))
        if missing:
            raise ValueError(
                f"split {split} must have the columns of `data.rows`, but lacks {', '.join(missing)}: "
                f"write it again with `python -m data.write --split {split}`"
            )
        kept = range(len(table))
        if config.kinds is not None:
            kinds = [str(kind) for kind in table["kind"]]
            for kind in config.kinds:
                if kind not in kinds:
                    raise ValueError(f"split {split} has no scene of kind {kind}{suggestion(kind, sorted(set(kinds)))}")
            kept = [i for i in kept if kinds[i] in config.kinds]
        if config.at_rest:
            rest = [bool(flag) for flag in table["at_rest"]]
            kept = [i for i in kept if rest[i]]
        if not kept:
            raise ValueError(f"split {split} has no scene left: loosen kinds or at_rest")
        self.config, self.seed, self.shuffle = config, seed, shuffle
        self.table = table.select(list(kept)).with_format("numpy")
        self._orders: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self.table)

    def row_index(self, number: int) -> int:
        """The row of clip number `number`, counted from the start of the run."""
        epoch, place = divmod(number, len(self))
        if not self.shuffle:
            return place
        if epoch not in self._orders:
            self._orders = {epoch: shuffled(len(self), self.seed, epoch)} | {
                order_epoch: order for order_epoch, order in self._orders.items() if order_epoch == epoch - 1
            }
        return self._orders[epoch][place]

    def batch(self, numbers: list[int]) -> Batch:
        """The scenes of these clip numbers, resized to the configured size."""
        batch = data_rows.collate([self.table[self.row_index(number)] for number in numbers])
        if self.config.fps is not None:
            batch["fps_B"] = torch.full((len(numbers),), float(self.config.fps))
        video = resized(data_rows.to_video(batch), self.config.height, self.config.width)
        if self.config.num_frames is not None:
            video = video.with_frames(video.frames_BTCHW[:, : self.config.num_frames])
        columns = data_rows.reward_columns(batch)
        if self.of_text:
            video, columns = without_scene(video), columns_of_text(columns)
        return Batch(video=video, captions=batch["caption"], ids=batch["id"], columns=columns, numbers=numbers)


def clip_size(config: DataConfig) -> tuple[int, int, int]:
    """Frames, rows and columns of a clip: the configured ones, else those that the split's first file is typed with.

    Raises:
        ValueError: as of `Scenes`, where no file says them.
    """
    root = data_rows.SHIPPED if config.dataset == "drops" else Path(config.dataset)
    files = sorted((root / config.split.split("+")[0]).glob("*.parquet"))
    columns = Features.from_arrow_schema(pq.read_schema(files[0])) if files else {}
    shape = getattr(columns.get("frames"), "shape", None)
    if shape is None:
        video = Scenes(config, config.split).batch([0]).video
        shape = (video.num_frames, video.height_px, video.width_px)
    return config.num_frames or shape[0], config.height or shape[1], config.width or shape[2]


def resized(video: Video, height: int | None, width: int | None) -> Video:
    """The video at another size, camera and first masks with it."""
    height, width = height or video.height_px, width or video.width_px
    if (height, width) == (video.height_px, video.width_px):
        return video
    shape = video.frames_BTCHW.shape
    interpolate = torch.nn.functional.interpolate
    frames = interpolate(video.frames_BTCHW.flatten(0, 1), size=(height, width), mode="bilinear", antialias=True)
    mask, objects = video.first_mask_BHW, video.object_masks_BNHW
    return Video(
        frames_BTCHW=frames.unflatten(0, shape[:2]).clamp(0, 1),
        fps_B=video.fps_B,
        camera=None if video.camera is None else video.camera.resized(height, width),
        first_mask_BHW=None if mask is None else interpolate(mask[:, None], size=(height, width))[:, 0],
        object_masks_BNHW=None if objects is None else interpolate(objects, size=(height, width)),
        object_depth_m_B=video.object_depth_m_B,
        object_diameter_m_B=video.object_diameter_m_B,
        px_per_m_B=None if video.px_per_m_B is None else video.px_per_m_B * height / video.height_px,
        at_rest_B=video.at_rest_B,
    )


def condition_on(
    model: VideoModel,
    batch: Batch,
    config: GenerationConfig,
    generators: list[torch.Generator],
    *,
    num_frames: int | None = None,
) -> Condition:
    """What the model generates the batch's clips from: captions, frame rates and, where asked for, first frames."""
    video = batch.video
    first: Tensor | None = video.frames_BTCHW[:, 0].to(model.device) if config.image_conditioning else None
    condition = model.condition(
        batch.captions,
        fps=video.fps_B,
        num_frames=num_frames or config.num_frames or video.num_frames,
        height_px=video.height_px,
        width_px=video.width_px,
        first_frames_BCHW=first,
        guidance_scale=config.guidance_scale,
        negative_prompt=config.negative_prompt,
        generators=generators,
    )
    return dataclasses.replace(condition, detach_negative=config.detach_negative)

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
from data.rates import at_rate
from data.sources import check_rates, check_scales, completed, open_split
from reward_physics.video import Video
from trainers.learning.of_text import columns_of_text, without_scene
from trainers.learning.streams import shuffled
from trainers.models.base import Condition, VideoModel
from trainers.settings.common import DataConfig, GenerationConfig
from trainers.settings.options import suggestion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Some scenes: the data's own clips, their captions and the columns that rewards may ask for.

    Args:
        has_clips: False where there are prompts alone; the video then holds zeros.
    """

    video: Video
    captions: list[str]
    ids: list[str]
    columns: dict[str, Any]
    numbers: list[int]
    has_clips: bool = True


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
        table = open_split(config.dataset, split)
        self.has_clips = "frames" in table.column_names
        if not self.has_clips:
            check_text_alone(config)
        for name, asked in (("kind", config.kinds is not None), ("at_rest", config.at_rest)):
            if asked and name not in table.column_names:
                option = "kinds" if name == "kind" else name
                raise ValueError(f"{option} needs a column `{name}`, which split {split} lacks: leave {option} out")
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
        self.config, self.split, self.seed, self.shuffle = config, split, seed, shuffle
        self.table = table.select(list(kept))
        check_scales(split, self.table)
        if self.has_clips and config.fps is not None:
            check_rates(split, self.table, config.fps, config.num_frames)
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
        """The scenes of these clip numbers, at the configured size and frame rate.

        Where there are prompts alone, the video is one of zeros and says the size and rate that are asked for.
        """
        config = self.config
        rows = [completed(self.table[index], self.split, index) for index in map(self.row_index, numbers)]
        if not self.has_clips:
            batch = data_rows.collate(rows)
            return Batch(
                video=blank_video(config, len(rows)),
                captions=batch["caption"],
                ids=batch["id"],
                columns=batch,
                numbers=numbers,
                has_clips=False,
            )
        batch = data_rows.collate([at_rate(row, config.fps, config.num_frames) for row in rows])
        video = resized(data_rows.to_video(batch), config.height, config.width)
        if config.num_frames is not None:
            video = video.with_frames(video.frames_BTCHW[:, : config.num_frames])
        columns = data_rows.reward_columns(batch)
        if video.px_per_m_B is not None:
            columns["px_per_m_B"] = video.px_per_m_B
        if self.of_text:
            video, columns = without_scene(video), columns_of_text(columns)
        return Batch(video=video, captions=batch["caption"], ids=batch["id"], columns=columns, numbers=numbers)


def check_text_alone(config: DataConfig) -> None:
    """Raise ValueError where prompts without clips leave open what only clips could say."""
    lacking = [name for name in ("num_frames", "height", "width", "fps") if getattr(config, name) is None]
    needs = [f"set {', '.join(lacking)}"] if lacking else []
    needs += ["set image_conditioning to false"] if config.image_conditioning else []
    if needs:
        raise ValueError(
            f"dataset {config.dataset} holds prompts alone, no frames: {' and '.join(needs)}, or give clips with frames"
        )


def blank_video(config: DataConfig, count: int) -> Video:
    """Clips without content at the size and rate of the settings. They take no memory; copies of them do."""
    assert config.num_frames and config.height and config.width and config.fps
    frames_BTCHW = torch.zeros(()).expand(count, config.num_frames, 3, config.height, config.width)
    return Video(frames_BTCHW=frames_BTCHW, fps_B=torch.full((count,), float(config.fps)))


def clip_size(config: DataConfig) -> tuple[int, int, int]:
    """Frames, rows and columns of a clip: the configured ones, else the data's at the configured rate.

    Raises:
        ValueError: as of `Scenes`, where no file says them.
    """
    root = data_rows.SHIPPED if config.dataset == "drops" else Path(config.dataset)
    files = sorted((root / config.split.split("+")[0]).glob("*.parquet"))
    columns = Features.from_arrow_schema(pq.read_schema(files[0])) if files else {}
    shape = getattr(columns.get("frames"), "shape", None)
    if shape is None or (config.fps is not None and config.num_frames is None):
        video = Scenes(config, config.split, shuffle=False).batch([0]).video
        shape = (video.num_frames, video.height_px, video.width_px)
    return config.num_frames or shape[0], config.height or shape[1], config.width or shape[2]


def lasting(frames_BTCHW: Tensor, num_frames: int) -> Tensor:
    """The first `num_frames` frames of clips; the last one stands where a clip has fewer."""
    return frames_BTCHW[:, torch.arange(num_frames).clamp(max=frames_BTCHW.shape[1] - 1)]


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


def check_not_given(num_frames: int, config: DataConfig) -> None:
    """Raise ValueError where a reward is shown the first frame alone, and that frame is given."""
    if num_frames == 1 and config.image_conditioning:
        raise ValueError(
            "the reward is shown 1 frame, which image_conditioning gives: it can change nothing; raise num_frames"
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

"""True clips for the red team: rows of a split, and motions that the embedded world lacks, staged in its pictures.

Axes: B clips, T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.rows import collate, to_video
from data.worlds import world_of
from reward_physics.video import Video
from trainers.redteam.cut import Cut, cut_out, recompose

LENGTH_M, SWING_FPS = 1.0, 8.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrueClip:
    """One clip (a batch of one) that physics allows.

    Args:
        name: of the row, and how it was staged.
        kind: of the scene.
        video: the clip.
        masks_BTHW: 0 for background, else the number of the object.
        caption: of the row.
        reference_BTCHW: the data's own clip, which `video` may be a round trip of.
    """

    name: str
    kind: str
    video: Video
    masks_BTHW: Tensor
    caption: str
    reference_BTCHW: Tensor

    @property
    def cut(self) -> Cut:
        """The first object cut out of it."""
        return cut_out(self.video.frames_BTCHW, (self.masks_BTHW == 1).float())


def pendulum(cut: Cut, _: Video) -> tuple[Tensor, Tensor]:
    """The object of the first frame swings on a thread of half the picture's height: frames and mask.

    theta(t) = 0.35 cos(2 pi t / T),    T = 2 pi sqrt(L / g) (1 + theta_0^2 / 16),    L = 1 m, 8 frames a second
    """
    frames, (height, width) = cut.frames_BTCHW.shape[1], cut.frames_BTCHW.shape[-2:]
    most = 0.35
    period = 2 * math.pi * math.sqrt(LENGTH_M / 9.81) * (1 + most**2 / 16) * SWING_FPS
    theta = most * torch.cos(2 * math.pi * torch.arange(frames) / period)
    centre = torch.stack((width / 2 + height / 2 * theta.sin(), height * (0.15 + theta.cos() / 2)), -1)
    return _moved(cut, centre[None].to(cut.centroid_BT2))


def swirl(cut: Cut, _: Video) -> tuple[Tensor, Tensor]:
    """The first picture turned by a vortex about the object, which keeps areas: frames and mask.

    angle(r, t) = 0.1 t exp(-r^2 / (2 s^2)),    s a quarter of the height
    """
    frames, (height, width) = cut.frames_BTCHW.shape[1], cut.frames_BTCHW.shape[-2:]
    middle = cut.centroid_BT2[:, :1]
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    away = torch.stack((u, v), -1).to(middle) - middle[..., None, :] - middle.new_tensor([2.0, 2.0])
    angle = 0.1 * torch.exp(-away.square().sum(-1) / (2 * (height / 4) ** 2))
    angle = angle * torch.arange(frames).to(angle)[:, None, None]
    x, y = away[..., 0], away[..., 1]
    source = torch.stack((x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()), -1)
    source = source + middle[0, 0] + 2.0
    grid = source / source.new_tensor([width, height]) * 2 - 1
    first = torch.cat((cut.frames_BTCHW[:, :1], cut.mask_BTHW[:, :1, None]), 2)[:, 0].expand(frames, -1, -1, -1)
    moved = F.grid_sample(first, grid, padding_mode="border", align_corners=False)
    return moved[None, :, :3], moved[None, :, 3]


def slope(cut: Cut, video: Video) -> tuple[Tensor, Tensor]:
    """The object slides from rest down a slope of 30 degrees, friction 0.1, at its distance from the camera.

    s(t) = g (sin 30 - 0.1 cos 30) t^2 / 2    towards the wider side of the picture
    """
    camera = video.camera
    assert camera is not None and video.object_depth_m_B is not None
    start = cut.centroid_BT2[:, :1]
    place = camera.unproject(start, video.object_depth_m_B.to(start)[:, None])
    side = torch.where(start[..., 0] < video.width_px / 2, 1.0, -1.0)
    right = side[..., None] * camera.world_from_camera_B44[:, None, :3, 0].to(place)
    down = torch.tensor([0.0, 0.0, -1.0]).to(place)
    angle = math.radians(30)
    way = 9.81 * (math.sin(angle) - 0.1 * math.cos(angle)) * video.times_BT.square()[..., None] / 2
    centre, _ = camera.project(place + way.to(place) * (right * math.cos(angle) + down * math.sin(angle)))
    return _moved(cut, centre.to(start))


def _moved(cut: Cut, centre_BT2: Tensor) -> tuple[Tensor, Tensor]:
    """The object of the first frame at these places before the usual background: frames and mask."""
    frames = cut.frames_BTCHW.shape[1]
    first = torch.zeros(1, frames, dtype=torch.long)
    plate = cut.plate_BTCHW.median(1, keepdim=True).values.expand_as(cut.plate_BTCHW)
    drawn = recompose(cut, source_BT=first, centre_BT2=centre_BT2, onto_BTCHW=plate)
    white = dataclasses.replace(cut, frames_BTCHW=cut.mask_BTHW[:, :, None].expand(-1, -1, 3, -1, -1))
    mask = recompose(white, source_BT=first, centre_BT2=centre_BT2, onto_BTCHW=torch.zeros_like(plate))
    return drawn, mask[:, :, 0]


STAGED: dict[str, Callable[[Cut, Video], tuple[Tensor, Tensor]]] = {
    "pendulum": pendulum,
    "swirl": swirl,
    "slope": slope,
}


ALL_KINDS = ("drop", "bounce", "throw", "collide", *STAGED)


def staged(kind: str, clip: TrueClip) -> TrueClip:
    """The clip's picture with that motion in it, seen by the same camera."""
    frames, mask = STAGED[kind](clip.cut, clip.video)
    masks = (mask >= 0.5).to(clip.masks_BTHW)
    video = dataclasses.replace(
        clip.video.with_frames(frames.clamp(0, 1)),
        fps_B=torch.full_like(clip.video.fps_B, SWING_FPS) if kind == "pendulum" else clip.video.fps_B,
        first_mask_BHW=(masks[:, 0] == 1).float(),
        object_masks_BNHW=None,
        object_depth_m_B=clip.video.object_depth_m_B if kind == "slope" else None,
        at_rest_B=None,
    )
    name = f"{clip.name}-{kind}"
    return TrueClip(
        name=name, kind=kind, video=video, masks_BTHW=masks, caption=clip.caption, reference_BTCHW=video.frames_BTCHW
    )


def true_clips(split: str, dataset: str | None, kinds: dict[str, int], *, world: str = "drops") -> Iterator[TrueClip]:
    """The first clips of each kind, in the order of the split.

    Args:
        kinds: how many of each kind; staged kinds take the pictures of drops.
        world: that the rows are of; they name the kind of their scene.
    """
    table = world_of(world).rows(split, dataset)
    of_rows = [str(kind) for kind in table["kind"]]
    for kind, count in kinds.items():
        source = "drop" if kind in STAGED else kind
        for number in [n for n, row_kind in enumerate(of_rows) if row_kind == source][:count]:
            batch: dict[str, Any] = collate([table[number]])
            video = to_video(batch)
            clip = TrueClip(
                name=batch["id"][0],
                kind=source,
                video=video,
                masks_BTHW=batch["mask_BTHW"],
                caption=batch["caption"][0],
                reference_BTCHW=video.frames_BTCHW,
            )
            yield staged(kind, clip) if kind in STAGED else clip

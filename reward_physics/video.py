"""Video: a batch of clips with the one pixel range of this toolkit, their frame rate, and what is known of the scene.

Axes: B clips, T frames, C colours (3), H rows, W columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reward_physics.camera import Camera


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video:
    """A batch of clips of one size.

    Args:
        frames_BTCHW: colours in [0, 1], floating point, three channels. Values are not clamped here. Half precision
            becomes float32 here: places are measured to hundredths of a pixel.
        fps_B: frames a second of each clip, > 0. `Video.make` also takes one number. There is no default: an
            acceleration is metres times fps squared.
        frame_times_BT: each frame's own time, s, rising; for frames that a camera took at uneven times. None where
            they are 1 / fps apart. With it `fps_B` says how many frames come in a second on average.
        camera: pinhole camera of each clip (or one for all), or None when unknown; then there are no metres.
        first_mask_BHW: 1 on the object in the first frame and 0 elsewhere, or None when unknown.
        object_depth_m_B: z-depth of the object's centre in the first frame, m, or None when unknown.
        at_rest_B: True where the object is known to be released without velocity in the first frame, or None.
        object_masks_BNHW: 1 on each of N objects in the first frame, zeros for one that a clip lacks, or None.
        px_per_m_B: pixels a metre at the object, or None when unknown. With it there are metres without any depth; a
            clip without a camera is then taken to look straight at a vertical plane that the object moves in.
        object_diameter_m_B: true diameter of the object, m, or None when unknown: its size in the picture then gives
            the scale.

    Raises:
        ValueError: wrong shape or type, frame rate or scale not positive, times that do not rise, camera of another
            size.
    """

    frames_BTCHW: Tensor
    fps_B: Tensor
    camera: Camera | None = None
    first_mask_BHW: Tensor | None = None
    object_depth_m_B: Tensor | None = None
    at_rest_B: Tensor | None = None
    px_per_m_B: Tensor | None = None
    object_diameter_m_B: Tensor | None = None
    object_masks_BNHW: Tensor | None = None
    frame_times_BT: Tensor | None = None

    def __post_init__(self) -> None:
        self._check_frames()
        batch, height, width = self.batch_size, self.height_px, self.width_px
        if self.fps_B.shape != (batch,):
            raise ValueError(f"fps must have one number a clip, shape ({batch},), got {tuple(self.fps_B.shape)}")
        bad = ~(torch.isfinite(self.fps_B) & (self.fps_B > 0))
        if bad.any():
            raise ValueError(f"fps must be > 0, got {self.fps_B[bad][0].item():g}: give the clip's frames a second")
        self._check_times()
        mask = self.first_mask_BHW
        if mask is not None and mask.shape != (batch, height, width):
            raise ValueError(
                f"first mask must have shape {(batch, height, width)} like the frames, got {tuple(mask.shape)}"
            )
        depth = self.object_depth_m_B
        if depth is not None and (depth.shape != (batch,) or not (depth > 0).all()):
            raise ValueError(
                f"object depth must be one number > 0 m a clip, shape ({batch},), got {tuple(depth.shape)}"
            )
        if self.at_rest_B is not None and self.at_rest_B.shape != (batch,):
            raise ValueError(f"at_rest must have shape ({batch},), got {tuple(self.at_rest_B.shape)}")
        for name, scale in (("px_per_m", self.px_per_m_B), ("object_diameter_m", self.object_diameter_m_B)):
            if scale is not None and (scale.shape != (batch,) or not (torch.isfinite(scale) & (scale > 0)).all()):
                raise ValueError(f"{name} must be one finite number > 0 a clip, shape ({batch},), got {scale.tolist()}")
        objects = self.object_masks_BNHW
        if objects is not None and (objects.ndim != 4 or objects[:, 0].shape != (batch, height, width)):
            raise ValueError(
                f"object masks must have shape ({batch}, N, {height}, {width}), got {tuple(objects.shape)}: "
                "one mask an object"
            )
        camera = self.camera
        if camera is not None:
            if (camera.height_px, camera.width_px) != (height, width):
                raise ValueError(
                    f"camera is for {camera.height_px} x {camera.width_px} px but the frames have {height} x {width}: "
                    "use camera.resized(height, width)"
                )
            object.__setattr__(self, "camera", camera.expanded(batch))

    def _check_frames(self) -> None:
        frames = self.frames_BTCHW
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(f"frames must have shape (B, T, 3, H, W), got {tuple(frames.shape)}: move the axes first")
        if not frames.is_floating_point():
            raise ValueError(f"frames must be floating point in [0, 1], got {frames.dtype}: divide bytes by 255")
        if frames.dtype not in (torch.float32, torch.float64):
            object.__setattr__(self, "frames_BTCHW", frames.float())

    def _check_times(self) -> None:
        times = self.frame_times_BT
        if times is None:
            return
        if times.shape != (self.batch_size, self.num_frames):
            raise ValueError(
                f"frame times must have shape {(self.batch_size, self.num_frames)}, one a frame, "
                f"got {tuple(times.shape)}"
            )
        if not torch.isfinite(times).all() or not (times.diff(dim=1) > 0).all():
            raise ValueError("frame times must be finite and rise from frame to frame, s: leave out repeated frames")

    @classmethod
    def make(
        cls,
        frames_BTCHW: Tensor,
        fps: float | Tensor,
        *,
        camera: Camera | None = None,
        first_mask_BHW: Tensor | None = None,
    ) -> Video:
        """A Video from frames in [0, 1] and one frame rate for all clips or one for each."""
        fps_B = torch.as_tensor(fps, dtype=torch.float32, device=frames_BTCHW.device)
        if fps_B.ndim == 0:
            fps_B = fps_B.expand(frames_BTCHW.shape[0])
        return cls(frames_BTCHW=frames_BTCHW, fps_B=fps_B, camera=camera, first_mask_BHW=first_mask_BHW)

    @property
    def source(self) -> tuple[str, Tensor]:
        """What the clips are made of, in a word, and as the tensor that a gradient comes to: ("frames", frames_BTCHW).

        Nothing is decoded for it.
        """
        return "frames", self.frames_BTCHW

    @property
    def device(self) -> torch.device:
        """Where the clips are. Nothing is decoded for it."""
        return self.source[1].device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the frames, and of what is known of a clip. Nothing is decoded for it."""
        return self.frames_BTCHW.dtype

    @property
    def batch_size(self) -> int:
        return len(self.source[1])

    @property
    def num_frames(self) -> int:
        return self.frames_BTCHW.shape[1]

    @property
    def height_px(self) -> int:
        return self.frames_BTCHW.shape[3]

    @property
    def width_px(self) -> int:
        return self.frames_BTCHW.shape[4]

    @property
    def times_BT(self) -> Tensor:
        """Time of every frame in seconds from the first, float64."""
        if self.frame_times_BT is not None:
            return self.frame_times_BT.double() - self.frame_times_BT[:, :1].double()
        frame = torch.arange(self.num_frames, dtype=torch.float64, device=self.fps_B.device)
        return frame / self.fps_B.double()[:, None]

    @property
    def ticks_BT(self) -> Tensor:
        """Time of every frame in usual steps from frame to frame, float64: 0, 1, 2, ... at a constant rate."""
        if self.frame_times_BT is None or self.num_frames < 2:
            frame = torch.arange(self.num_frames, dtype=torch.float64, device=self.fps_B.device)
            return frame.expand(self.batch_size, -1)
        times = self.times_BT
        return times / times.diff(dim=1).median(dim=1, keepdim=True).values

    def refuse_uneven_times(self, name: str) -> None:
        """Raise ValueError where frames come at uneven times, for what compares neighbours without asking when."""
        if self.frame_times_BT is not None:
            raise ValueError(
                f"{name} compares neighbouring frames and needs a constant frame rate, and these come at uneven times: "
                "convert the clip to a constant rate"
            )

    def detached(self) -> Video:
        """The same clips cut from the graph that made them."""
        return dataclasses.replace(self, frames_BTCHW=self.frames_BTCHW.detach())

    def with_frames(self, frames_BTCHW: Tensor) -> Video:
        """Other frames of the same scenes: frame rate, camera and first mask stay."""
        return dataclasses.replace(self, frames_BTCHW=frames_BTCHW)

    def to(self, device: torch.device | str) -> Video:
        """The same clips on a device."""
        return self._changed(lambda part: part.to(device))

    def __getitem__(self, clips: slice | Tensor | list[int]) -> Video:
        """Some of the clips, as a Video: `video[2:4]`, `video[[0, 3]]`."""
        return self._changed(lambda part: part[clips])

    def _changed(self, change: Callable[[Any], Any]) -> Video:
        return Video(frames_BTCHW=change(self.frames_BTCHW), **self._scene(change))

    def _scene(self, change: Callable[[Any], Any] = lambda part: part) -> dict[str, Any]:
        """What is known of the scene apart from its frames, by the names of the arguments, each part changed."""
        known = {name: getattr(self, name) for name in _SCENE}
        return {name: None if part is None else change(part) for name, part in known.items()}


_SCENE = tuple(field.name for field in dataclasses.fields(Video) if field.name != "frames_BTCHW")

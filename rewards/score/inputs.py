"""What the scoring command is given of a clip besides its pixels: rate, scale, frames, camera, mask."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ruamel.yaml import YAML, YAMLError
from torch import Tensor

from reward_physics.camera import Camera

_LARGEST_FILE = 1 << 20
_MOST_OBJECTS = 16


def positive(text: str) -> float:
    """A finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number > 0, got {text}")
    return value


def fps_of(text: str) -> float | Literal["container"]:
    """Frames a second, or `container`."""
    return "container" if text == "container" else positive(text)


def frames_of(text: str) -> tuple[int, int]:
    """`264:335` -> (264, 336): first and past-last frame."""
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"must be FIRST:LAST with 0 <= FIRST <= LAST, got {text}")
    return int(first), int(last) + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraFile:
    """A camera as the user describes it, before the size of the clip is known.

    Args:
        fov_y_deg: vertical field of view, degrees, in (0, 180).
        focal_px: or the focal length, px, with `height_px` the rows of the image it speaks of.
        height_px: see `focal_px` and `intrinsics`.
        pitch_down_deg: how far the camera looks down, degrees.
        roll_deg: how far it is turned about its axis, clockwise as seen from behind it, degrees.
        intrinsics: or a 3 x 3 matrix, for an image of `width_px` x `height_px`.
        width_px: see `intrinsics`.
    """

    fov_y_deg: float | None = None
    focal_px: float | None = None
    height_px: float | None = None
    pitch_down_deg: float = 0.0
    roll_deg: float = 0.0
    intrinsics: Any = None
    width_px: float | None = None

    @classmethod
    def read(cls, text: str) -> CameraFile:
        """From degrees, or from a YAML or JSON file. Raises argparse.ArgumentTypeError."""
        try:
            return cls(fov_y_deg=float(text)).checked()
        except ValueError:
            pass
        path = Path(text)
        if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
            raise argparse.ArgumentTypeError(f"{text} is neither a field of view in degrees nor a file")
        try:
            settings = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        except (YAMLError, UnicodeDecodeError, ValueError) as error:
            raise argparse.ArgumentTypeError(f"{text}: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(settings, dict):
            raise argparse.ArgumentTypeError(f"{text}: a camera is a mapping such as {{fov_y_deg: 45}}")
        known = [field.name for field in dataclasses.fields(cls)]
        for key in settings:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                raise argparse.ArgumentTypeError(f"{text}: unknown key {key}: {hint}")
        return cls(**settings).checked()

    def checked(self) -> CameraFile:
        """Itself, or argparse.ArgumentTypeError where it is no camera."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "intrinsics" or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise argparse.ArgumentTypeError(f"camera {field.name} must be a finite number, got {value!r}")
        given = [name for name in ("fov_y_deg", "focal_px", "intrinsics") if getattr(self, name) is not None]
        if len(given) != 1:
            raise argparse.ArgumentTypeError("a camera needs one of fov_y_deg, focal_px (with height_px) or intrinsics")
        if self.fov_y_deg is not None and not 0 < self.fov_y_deg < 180:
            raise argparse.ArgumentTypeError(f"camera fov_y_deg must lie in (0, 180), got {self.fov_y_deg:g}")
        if self.focal_px is not None and not (self.focal_px > 0 and (self.height_px or 0) > 0):
            raise argparse.ArgumentTypeError("camera focal_px must be > 0, with height_px the rows of its image")
        if self.intrinsics is not None:
            self._check_intrinsics()
        return self

    def _check_intrinsics(self) -> None:
        try:
            k = np.asarray(self.intrinsics, dtype=float)
        except (TypeError, ValueError):
            k = np.zeros(0)
        if k.shape != (3, 3) or not np.isfinite(k).all() or k[0, 0] <= 0 or k[1, 1] <= 0:
            raise argparse.ArgumentTypeError("camera intrinsics must be a finite 3 x 3 matrix with focal lengths > 0")
        if not ((self.height_px or 0) > 0 and (self.width_px or 0) > 0):
            raise argparse.ArgumentTypeError("camera intrinsics need height_px and width_px, the size of their image")

    def build(self, height_px: int, width_px: int) -> Camera:
        """The camera of a clip of this size."""
        fov_y_deg = self.fov_y_deg or 45.0
        if self.focal_px is not None and self.height_px is not None:
            fov_y_deg = math.degrees(2 * math.atan(self.height_px / 2 / self.focal_px))
        camera = Camera.looking(
            height_px=height_px, width_px=width_px, fov_y_deg=fov_y_deg, pitch_down_deg=self.pitch_down_deg
        )
        if self.intrinsics is not None and self.height_px is not None and self.width_px is not None:
            scale = torch.tensor([width_px / self.width_px, height_px / self.height_px, 1.0])
            k = torch.tensor(self.intrinsics, dtype=torch.float32) * scale[:, None]
            camera = dataclasses.replace(camera, intrinsics_B33=k[None])
        c, s = math.cos(math.radians(self.roll_deg)), math.sin(math.radians(self.roll_deg))
        roll = torch.tensor([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        return dataclasses.replace(camera, world_from_camera_B44=camera.world_from_camera_B44 @ roll)


def masks_from(text: str, height_px: int, width_px: int) -> Tensor:
    """The objects in the first frame, (N, H, W), each 1 on its object.

    Args:
        text: `left,top,right,bottom` in pixels, several with `;` between them; or an image file: of one object, bright;
            or of labels, a grey level under 128 or a place in a palette for each, 0 for none.
    """
    if "," in text and all(part.strip().isdecimal() for box in text.split(";") for part in box.split(",")):
        return torch.stack([_box(box, height_px, width_px) for box in text.split(";")])
    from PIL import Image

    path = Path(text)
    if not path.is_file():
        raise ValueError(f"no mask at {text}: give an image file, or left,top,right,bottom in pixels")
    try:
        with Image.open(path) as image:
            if image.size != (width_px, height_px):
                raise ValueError(
                    f"mask {text} is {image.size[0]} x {image.size[1]} px but the clip is {width_px} x {height_px} px"
                )
            indexed = image.mode == "P" and len(np.unique(np.array(image))) > 2
            levels = torch.from_numpy(np.array(image if indexed else image.convert("L")))
            labels = indexed or 0 < int(levels.max()) < 128
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the mask {text}: {' '.join(str(error).split())[:120]}") from error
    if not labels:
        if not (levels >= 128).any():
            raise ValueError(f"mask {text} is empty: the object must be brighter than half")
        return (levels >= 128).float()[None]
    present = [int(level) for level in levels.unique() if level > 0]
    if not 0 < len(present) <= _MOST_OBJECTS:
        raise ValueError(
            f"mask {text} has {len(present)} labels: expected 1 to {_MOST_OBJECTS}, one an object and 0 elsewhere"
        )
    return torch.stack([(levels == level).float() for level in present])


def _box(text: str, height_px: int, width_px: int) -> Tensor:
    sides = [int(part) for part in text.split(",")]
    if len(sides) != 4:
        raise ValueError(f"mask box {text} must be left,top,right,bottom in pixels")
    left, top, right, bottom = sides
    if not (left < right <= width_px and top < bottom <= height_px):
        raise ValueError(f"mask box {text} must lie inside the {width_px} x {height_px} px frame")
    mask = torch.zeros(height_px, width_px)
    mask[top:bottom, left:right] = 1
    return mask

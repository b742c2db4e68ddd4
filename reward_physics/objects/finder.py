"""What a finder is: an instrument that says which pixels are the object, and where the object is.

A finder of another kind (a video segmenter, a point tracker) is one more class in one more file. It derives from
`Finder`, it gives what it finds as `Found`, and it may ask for whatever an Observation measures (`Measurements`).
Its instance is handed to `Instruments(mask=...)`, or gets a name in `reward_physics.objects.finders`.

Axes: B clips, T frames, S pairs of frames, N objects, C colours, H rows, W columns.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from reward_physics.grid import centroid
from reward_physics.objects.homography import CameraMotion
from reward_physics.objects.masks import by_appearance
from reward_physics.objects.sharing import shares
from reward_physics.objects.windows import follow

THE_OBJECT = "the object's mask"
"""What a message says is missing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """Where the object of every clip is, for a finder that follows it by itself; detached.

    Args:
        window_BTHW: discs around the object; zero in frames where it was not found.
        centre_BT2: (u, v), px. Between the frames that show the object it is interpolated; before and after them it
            is the nearest.
        radius_B: radius of the window in a typical frame, px.
        present_BT: whether the object was found in the frame.
    """

    window_BTHW: Tensor
    centre_BT2: Tensor
    radius_B: Tensor
    present_BT: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Positions:
    """The measured path of the object of every clip, for a finder that reads positions and no pixels.

    Args:
        centre_BT2: (u, v), px; differentiable.
        half_extent_BT2: half the object's size along u and along v, px, > 0; differentiable.
        visible_BT: share of the object that is seen, in [0, 1]; differentiable.
        variance_px2_BT: variance of either coordinate of the centre, px^2, > 0; used detached.
    """

    centre_BT2: Tensor
    half_extent_BT2: Tensor
    visible_BT: Tensor
    variance_px2_BT: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """One object of every clip.

    Args:
        mask_BTHW: soft mask, 0 to 1, differentiable in what it was made from; zero where nothing was found.
        reasons: None, or why a clip has no such object.
        places: where the object is, or None: the mask is then followed from frame to frame.
        positions: the object's path, or None: the path is then the mask's centroid.
    """

    mask_BTHW: Tensor
    reasons: list[str | None]
    places: Places | None = None
    positions: Positions | None = None


class Clips(Protocol):
    """What a finder may ask of a Video."""

    @property
    def frames_BTCHW(self) -> Tensor: ...
    @property
    def first_mask_BHW(self) -> Tensor | None: ...
    @property
    def object_masks_BNHW(self) -> Tensor | None: ...
    @property
    def ticks_BT(self) -> Tensor: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def height_px(self) -> int: ...
    @property
    def width_px(self) -> int: ...


class Measurements(Protocol):
    """What a finder may ask of an Observation: each is measured when it is first asked for, and once."""

    @property
    def video(self) -> Clips: ...
    @property
    def flow_BSHW2(self) -> Any: ...
    @property
    def depth(self) -> Any: ...
    @property
    def camera_motions(self) -> list[CameraMotion]: ...
    @property
    def steady_frames_BTCHW(self) -> Tensor: ...
    @property
    def positions(self) -> list[Positions]: ...
    @property
    def mask_BTHW(self) -> Tensor: ...
    @property
    def image_track(self) -> Any: ...
    @property
    def known_objects(self) -> list[Found]: ...


class Finder(abc.ABC):
    """One way of finding the object. It holds no state of a clip, so that one instance serves every Observation."""

    name: ClassVar[str]
    """What a recipe calls it, and what messages do."""

    description: ClassVar[str]
    """How it finds the object, in a few words that follow its name."""

    needs: ClassVar[tuple[str, ...]] = ()
    """The measurements that `find` reads, by their names in an Observation."""

    needs_first_mask: ClassVar[bool] = False
    """Whether clips without the object's first mask are refused."""

    steadies: ClassVar[bool] = False
    """Whether the camera's motion is taken out first: flow is then measured in a crop of the steadied frames that
    follows the object."""

    whole_picture: ClassVar[bool] = True
    """Whether it needs the clip's whole picture; else a part of it, at another size, serves as well."""

    noise_diameters: ClassVar[float] = 0.0
    """Noise that is expected of its centroids, in diameters of the object."""

    shared: ClassVar[tuple[str, ...]] = ("depth", "flow_BSHW2")
    """Measurements of whole clips that the Observations of a clip's several objects take over."""

    def check(self, *, flow: Callable[..., Any] | None, depth: Callable[..., Any] | None, flow_stride: int) -> None:
        """Refuse instruments that lack what this finder needs; by default none do.

        Raises:
            ValueError: what is lacking, and what to do.
        """
        return

    @abc.abstractmethod
    def find(self, seen: Measurements) -> Found:
        """The object of every clip."""

    def find_all(self, seen: Measurements) -> list[Found]:
        """Every object of the clips; less than two where nothing separates several.

        The order is that of `Video.object_masks_BNHW` where the clips have them. Otherwise the object of `find` comes
        first.
        """
        first_BNHW = seen.video.object_masks_BNHW
        if first_BNHW is None:
            return []
        return [_followed(*pair) for pair in zip(seen.known_objects, first_BNHW.unbind(1), strict=True)]

    def find_known(self, seen: Measurements, first_BNHW: Tensor) -> list[Found]:
        """Each object whose first mask is known.

        The foreground is shared out by the colours of the objects and the places they come from. The gradient reaches
        the pixels through the foreground.
        """
        foreground_BTHW = self.foreground(seen, first_BNHW)
        share_BNTHW = shares(seen.video.frames_BTCHW.detach(), foreground_BTHW.detach(), first_BNHW)
        masks_BNTHW = foreground_BTHW[:, None] * share_BNTHW
        reasons = reasons_of_known(first_BNHW)
        return [Found(mask_BTHW=part, reasons=why) for part, why in zip(masks_BNTHW.unbind(1), reasons, strict=True)]

    def foreground(self, seen: Measurements, first_BNHW: Tensor) -> Tensor:
        """Soft mask (B, T, H, W) of all objects with a known first mask together."""
        return by_appearance(seen.video.frames_BTCHW, first_BNHW.amax(1))


def reasons_of_known(first_BNHW: Tensor) -> list[list[str | None]]:
    """For each object, and for each clip: None, or that the clip lacks the object (its first mask is empty)."""
    areas = first_BNHW.sum((2, 3)).T.tolist()
    return [[None if area > 0 else "this clip has fewer objects" for area in clips] for clips in areas]


def _followed(body: Found, first_BHW: Tensor) -> Found:
    """The same object, with windows that follow its mask from the first frame's."""
    mask = body.mask_BTHW.detach()
    window, area_B = follow(mask, first_BHW, None, 1), first_BHW.sum((1, 2))
    places = Places(
        window_BTHW=window,
        centre_BT2=centroid(window),
        radius_B=(area_B / torch.pi).sqrt().clamp(min=1.0).to(mask),
        present_BT=(mask * window).sum((2, 3)) > 0.4 * area_B[:, None],
    )
    return dataclasses.replace(body, places=places)

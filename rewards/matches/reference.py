"""What the recipe's own instruments see of a reference clip: without gradient, and once however often it is met.

Axes: B clips, T frames, S pairs of frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import collections
import hashlib
import weakref
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_physics.observation import Instruments, Observation
from reward_physics.video import Video

CACHE_BYTES = 1 << 28
"""Measurements of reference clips that are kept for each set of instruments; the oldest go first."""

_caches: weakref.WeakKeyDictionary[Instruments, collections.OrderedDict[bytes, Tensor]] = weakref.WeakKeyDictionary()


def fitted(reference_BTCHW: Tensor, video: Video) -> Tensor:
    """The reference at the size and with the number of frames of the clips, on their device, without gradient.

    Raises:
        ValueError: another number of clips, or fewer frames than the clips have.
    """
    batch, frames, height, width = video.batch_size, video.num_frames, video.height_px, video.width_px
    if reference_BTCHW.ndim != 5 or len(reference_BTCHW) != batch or reference_BTCHW.shape[1] < frames:
        raise ValueError(
            f"reference_BTCHW must hold {batch} clips of at least {frames} frames, got {tuple(reference_BTCHW.shape)}: "
            "generate no longer clips than the data's"
        )
    reference = reference_BTCHW[:, :frames].detach().to(video.device, video.dtype)
    if tuple(reference.shape[-2:]) == (height, width):
        return reference
    flat = F.interpolate(reference.flatten(0, 1), size=(height, width), mode="bilinear", antialias=True)
    return flat.unflatten(0, (batch, frames)).clamp(0, 1)


def measured(
    observation: Observation, reference_BTCHW: Tensor, name: str, of: Callable[[Observation], Tensor]
) -> Tensor:
    """`of(Observation of the reference)`, one row per clip, from the cache where the same clip was met before.

    Args:
        observation: of the clips; its instruments look at the reference too.
        reference_BTCHW: the data's clips in [0, 1].
        name: what `of` measures; part of the key.
        of: one tensor with a row per clip.
    """
    reference = fitted(reference_BTCHW, observation.video)
    cache = _caches.setdefault(observation.instruments, collections.OrderedDict())
    keys = [_key(name, observation.video, reference, clip) for clip in range(len(reference))]
    new = [clip for clip, key in enumerate(keys) if key not in cache]
    rows = {key: cache[key] for key in keys if key in cache}
    if new:
        video = observation.video.detached().with_frames(reference)[new]
        with torch.no_grad():
            fresh = of(Observation(video, observation.instruments, grad=False)).detach().cpu()
        rows |= {keys[clip]: row.clone() for clip, row in zip(new, fresh, strict=True)}
    for key in keys:
        cache[key] = rows[key]
        cache.move_to_end(key)
    while len(cache) > 1 and sum(row.nbytes for row in cache.values()) > CACHE_BYTES:
        cache.popitem(last=False)
    return torch.stack([rows[key] for key in keys]).to(reference.device)


def _key(name: str, video: Video, reference_BTCHW: Tensor, clip: int) -> bytes:
    """A digest of all that the measurement depends on."""
    camera = video.camera
    parts = [reference_BTCHW[clip], video.times_BT[clip] if video.frame_times_BT is not None else video.fps_B[clip]]
    parts += [] if video.first_mask_BHW is None else [video.first_mask_BHW[clip]]
    parts += [] if camera is None else [camera.intrinsics_B33[clip], camera.world_from_camera_B44[clip]]
    digest = hashlib.blake2b(f"{name}{tuple(reference_BTCHW.shape)}".encode(), digest_size=16)
    for part in parts:
        digest.update(part.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.digest()

"""A reward server: clips go out by HTTP as JSON, scores come back."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from torch import Tensor

from reward_physics.files.io import to_uint8, write_video
from reward_physics.observation import Observation
from rewards.recipe.wrappers import to_scores
from rewards.servers.post import Failed, Refused, post


@dataclasses.dataclass(frozen=True, kw_only=True)
class http:
    """Scores from a reward server, without gradient: one POST per batch.

    The request's body is JSON: `{"version": 1, "clips": [...], "prompts": [...], "columns": {...}, "parameters": {}}`.
    A clip is `{"format": "mp4", "fps": 16.0, "data": base64}` or, exactly, `{"format": "raw", "dtype": "uint8",
    "shape": [T, H, W, 3], "fps": 16.0, "data": base64}`. `columns` holds the data set's columns of numbers and texts,
    one value per clip. The answer is `{"scores": [...]}` with one number or null (cannot be measured) per clip.

    What is not a number in a column (NaN, infinity: not known of that clip) is sent as null.

    Every failure is tried again after backoff_s, twice that, and so on: no connection, none that lasts, a timeout, a
    redirect, and an answer that is not one finite number or null per clip. Only a status 4xx that no waiting changes
    (all but 408, 425 and 429) fails at once. Only `url` is ever asked: no redirects are followed, and no proxies.

    Args:
        url: http:// or https:// address of the server, without a user name.
        timeout_s: longest time for one try, from connecting to the last byte of the answer, s, > 0.
        retries: how often a failed request is sent again, >= 0.
        backoff_s: wait before the first retry, s, >= 0; doubles each time.
        clips: `mp4` (H.264, small, lossy) or `raw` (exact).
        parameters: sent to the server as they are.
        on_failure: `raise`, or `unmeasurable`: warn, and the whole batch is NaN.
    """

    url: str
    timeout_s: float = 30.0
    retries: int = 3
    backoff_s: float = 0.5
    clips: Literal["mp4", "raw"] = "mp4"
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    on_failure: Literal["raise", "unmeasurable"] = "raise"
    differentiable = False

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise ValueError(f"url must be an http:// or https:// address without user or spaces, got {self.url!r}")
        for name, least in (("timeout_s", 1e-3), ("retries", 0), ("backoff_s", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
                raise ValueError(f"{name} must be a number >= {least:g}, got {value!r}")
        for name, known in (("clips", ("mp4", "raw")), ("on_failure", ("raise", "unmeasurable"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        try:
            json.dumps(self.parameters, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"parameters must hold what JSON can: texts, finite numbers, lists: {error}") from error

    def __call__(self, observation: Observation, **columns: Any) -> Tensor:
        """The server's scores (B,); see `on_failure`. Raises ValueError that names the address."""
        video = observation.video
        video.refuse_uneven_times("the reward server's clip")
        body = {
            "version": 1,
            "clips": [
                self._clip(*clip) for clip in zip(video.frames_BTCHW.detach(), video.fps_B.tolist(), strict=True)
            ],
            "prompts": list(columns.get("caption", [""] * video.batch_size)),
            "columns": _plain(columns, video.batch_size),
            "parameters": self.parameters,
        }
        try:
            scores = self._ask(json.dumps(body, allow_nan=False).encode(), video.batch_size)
        except ValueError as error:
            if self.on_failure == "raise":
                raise
            warnings.warn(f"reward server: {error}", stacklevel=2)
            return torch.full((video.batch_size,), math.nan, device=video.device)
        return scores.to(video.device)

    def _clip(self, frames_TCHW: Tensor, fps: float) -> dict[str, Any]:
        if self.clips == "raw":
            pixels = to_uint8(frames_TCHW).movedim(1, -1).contiguous().cpu().numpy()
            form = {"format": "raw", "dtype": "uint8", "shape": list(pixels.shape), "fps": fps}
            return form | {"data": base64.b64encode(pixels.tobytes()).decode()}
        with tempfile.TemporaryDirectory() as folder:
            data = write_video(Path(folder, "clip.mp4"), frames_TCHW, fps=fps, min_side_px=0).read_bytes()
        return {"format": "mp4", "fps": fps, "data": base64.b64encode(data).decode()}

    def _ask(self, body: bytes, batch: int) -> Tensor:
        """Post, and again while the failure may pass."""
        tries, cause = int(self.retries) + 1, ""
        for trial in range(tries):
            if trial:
                time.sleep(self.backoff_s * 2 ** (trial - 1))
            try:
                return _scores(post(self.url, body, timeout_s=self.timeout_s), batch)
            except Refused as error:
                raise ValueError(f"{self.url} refused the clips: {error}") from error
            except Failed as error:
                cause = str(error)
        raise ValueError(f"{self.url} gave no scores in {tries} tries: {cause}: start the server, or raise timeout_s")


def _is_address(url: Any) -> bool:
    if not isinstance(url, str) or any(letter <= " " or letter > "~" for letter in url):
        return False
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
        )
    except ValueError:  # a port that is no number, half an IPv6 address
        return False


def _scores(answer: bytes, batch: int) -> Tensor:
    """The scores (B,) of an answer. Raises Failed where it holds anything but one finite number or null per clip."""
    try:
        scores = json.loads(answer, parse_constant=_no_number)["scores"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Failed(f'it must answer {{"scores": [...]}}, got {answer[:80]!r}') from error
    try:
        scores_B = to_scores(scores, torch.device("cpu"))
    except (ValueError, OverflowError) as error:
        raise Failed(str(error)) from error
    if len(scores_B) != batch:
        raise Failed(f"it must answer {batch} scores, one a clip, got {len(scores_B)}")
    for place, score in enumerate(scores):
        if score is not None and not scores_B[place].isfinite():
            raise Failed(f"expected a number within float32 or null for clip {place}, got {score}")
    return scores_B


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _plain(columns: dict[str, Any], batch: int) -> dict[str, list[Any]]:
    """The columns that JSON can hold: one number or text per clip, and null for what is not known."""
    plain: dict[str, list[Any]] = {}
    for name, value in columns.items():
        if isinstance(value, Tensor) and value.shape == (batch,) and not value.is_complex():
            value = value.tolist()
        if not isinstance(value, list | tuple) or len(value) != batch:
            continue
        if all(entry is None or isinstance(entry, str | int | float) for entry in value):
            plain[name] = [None if isinstance(x, float) and not math.isfinite(x) else x for x in value]
    return plain

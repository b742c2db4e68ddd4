"""A reward server: clips go out by HTTP as JSON, scores come back."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from torch import Tensor

from reward_physics.files.io import to_uint8, write_video
from reward_physics.observation import Observation
from rewards.recipe.wrappers import to_scores

_LARGEST_ANSWER = 1 << 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class http:
    """Scores from a reward server, without gradient: one POST per batch.

    The request's body is JSON: `{"version": 1, "clips": [...], "prompts": [...], "columns": {...}, "parameters": {}}`.
    A clip is `{"format": "mp4", "fps": 16.0, "data": base64}` or, exactly, `{"format": "raw", "dtype": "uint8",
    "shape": [T, H, W, 3], "fps": 16.0, "data": base64}`. `columns` holds the data set's columns of numbers and texts,
    one value per clip. The answer is `{"scores": [...]}` with one number or null (cannot be measured) per clip.

    A status of 429 or 5xx, a refused connection and a timeout are tried again after backoff_s, twice that, and so on;
    any other status, a redirect and a wrong answer fail at once. Only `url` is ever asked: no redirects, no proxies.

    Args:
        url: http:// or https:// address of the server.
        timeout_s: longest wait for one answer, s, > 0.
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
        parts = urlsplit(self.url if isinstance(self.url, str) else "")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must be an http:// or https:// address, got {self.url!r}")
        for name, least in (("timeout_s", 1e-3), ("retries", 0), ("backoff_s", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
                raise ValueError(f"{name} must be a number >= {least:g}, got {value!r}")
        for name, known in (("clips", ("mp4", "raw")), ("on_failure", ("raise", "unmeasurable"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

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
            scores = self._ask(json.dumps(body).encode())
            if len(scores) != video.batch_size:
                raise ValueError(f"{self.url} must answer {video.batch_size} scores, one a clip, got {len(scores)}")
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

    def _ask(self, body: bytes) -> Tensor:
        """Post, and again while the failure may pass."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
        request = urllib.request.Request(self.url, data=body, headers={"Content-Type": "application/json"})
        cause = ""
        for trial in range(int(self.retries) + 1):
            if trial:
                time.sleep(self.backoff_s * 2 ** (trial - 1))
            try:
                with opener.open(request, timeout=self.timeout_s) as answer:
                    return self._scores(answer.read(_LARGEST_ANSWER + 1))
            except urllib.error.HTTPError as error:
                cause = f"status {error.code} {_first_line(error)}".strip()
                if error.code != 429 and error.code < 500:
                    raise ValueError(f"{self.url} refused the clips: {cause}") from error
            except (OSError, urllib.error.URLError) as error:
                reason = getattr(error, "reason", error)
                cause = f"no answer within {self.timeout_s:g} s" if isinstance(reason, TimeoutError) else str(reason)
        raise ValueError(
            f"{self.url} gave no scores in {int(self.retries) + 1} tries: {cause}: start the server, or raise timeout_s"
        )

    def _scores(self, answer: bytes) -> Tensor:
        if len(answer) > _LARGEST_ANSWER:
            raise ValueError(f"{self.url} answered more than {_LARGEST_ANSWER >> 20} MB")
        try:
            scores = json.loads(answer)["scores"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f'{self.url} must answer {{"scores": [...]}}, got {answer[:80]!r}') from error
        try:
            return to_scores(scores, torch.device("cpu"))
        except ValueError as error:
            raise ValueError(f"{self.url}: {error}") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Refused: the status 3xx then fails like any other."""


def _first_line(error: urllib.error.HTTPError) -> str:
    return " ".join(error.read(200).decode(errors="replace").split())


def _plain(columns: dict[str, Any], batch: int) -> dict[str, list[Any]]:
    """The columns that JSON can hold: one number or text per clip."""
    plain: dict[str, list[Any]] = {}
    for name, value in columns.items():
        if isinstance(value, Tensor) and value.shape == (batch,):
            value = value.tolist()
        if (
            isinstance(value, list)
            and len(value) == batch
            and all(isinstance(entry, str | int | float) for entry in value)
        ):
            plain[name] = value
    return plain

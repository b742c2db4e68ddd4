"""A tiny world without any fall: a lamp that goes out, its brightness exp(-rate t)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
from torch import Tensor

from data.worlds import Column, World

NAME = "lamp_world:Lamps"
FPS, RATE_PER_S = 8.0, 1.0


class Lamps(World):
    """The constant of the law is the rate at which light decays, 1/s; a generated lamp should have 1."""

    name = NAME
    splits = ("lamps",)
    columns = ("id", "seed", "caption", "fps", "frames", "rate_per_s")
    figure_columns = (Column(header="light error", name="light_error", form=".2f"),)

    def draw(self, split, number, *, frames, side_px, law=None):
        return {
            "seed": number,
            "frames": frames,
            "side_px": side_px,
            "rate_per_s": RATE_PER_S + number if law is None else law,
        }

    def simulate(self, scene):
        return np.exp(-scene["rate_per_s"] * np.arange(scene["frames"]) / FPS)

    def render(self, scene, motion):
        shape = (scene["frames"], scene["side_px"], scene["side_px"], 3)
        return np.broadcast_to((255 * motion).round()[:, None, None, None], shape).astype(np.uint8)

    def features(self, frames, height, width):
        value = datasets.Value
        return datasets.Features(
            {
                "id": value("string"),
                "split": value("string"),
                "seed": value("int64"),
                "caption": value("string"),
                "fps": value("float32"),
                "frames": datasets.Array4D((frames, height, width, 3), "uint8"),
                "rate_per_s": value("float32"),
            }
        )

    def row(self, scene, split, motion, frames_THW3):
        return {
            "id": f"{split}-{scene['seed']}",
            "split": split,
            "seed": scene["seed"],
            "caption": "a lamp goes out",
            "fps": FPS,
            "frames": frames_THW3,
            "rate_per_s": scene["rate_per_s"],
        }

    def truth(self, row):
        """The brightness at a time under any rate."""
        return lambda rate_per_s, time_s: math.exp(-rate_per_s * time_s)

    def law(self, row, *, is_true):
        return float(row["rate_per_s"]) if is_true else RATE_PER_S

    def figures(self, frames_TCHW: Tensor, row: Mapping[str, Any], truth: Any, *, is_true: bool) -> dict[str, float]:
        rate_per_s = self.law(row, is_true=is_true)
        errors = [abs(float(frame.mean()) - truth(rate_per_s, t / FPS)) for t, frame in enumerate(frames_TCHW)]
        return {"light_error": max(errors)}

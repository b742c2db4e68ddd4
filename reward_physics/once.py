"""Measurements made lazily and once, in the grad mode of the object that they belong to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def once(measure: Callable[[Any], Any]) -> Any:
    """A measurement computed at its first reading, in the grad mode that its object fixes (`grad`).

    What it saves for its backward pass is its own: a checkpoint around the first reading would look for it again when
    it computes its region anew, where the measurement is there already.
    """

    @functools.wraps(measure)
    def in_own_grad_mode(self: Any) -> Any:
        own = torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, lambda saved: saved)
        with torch.inference_mode(False), torch.set_grad_enabled(self.grad), own:
            return measure(self)

    return functools.cached_property(in_own_grad_mode)

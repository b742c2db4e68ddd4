"""How many bytes of tensors are alive while code runs, with data or without."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryMeter(TorchDispatchMode):
    """Counts the storages that operators make, once each, until they are freed; meta tensors count as real ones would.

    Workspaces inside an operator are not seen, nor what was alive before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak_bytes = 0
        self._known: set[int] = set()

    def take_peak(self) -> int:
        """The peak since the last call."""
        peak, self.peak_bytes = self.peak_bytes, self.bytes
        return peak

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._known or key in given:
                continue
            size = storage.nbytes()
            self._known.add(key)
            self.bytes += size
            self.peak_bytes = max(self.peak_bytes, self.bytes)
            weakref.finalize(storage, self._freed, key, size)
        return made

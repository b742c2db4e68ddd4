"""A trap for tensors that `reward_physics` makes without saying where.

On a machine without an accelerator everything lies on one device. A tensor that is made on the default device would be
on the wrong one where there are two.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

import reward_physics

PACKAGE = str(Path(reward_physics.__file__).parent)
_NAMES = ("arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "zeros")
_MAKERS = {getattr(torch, name) for name in _NAMES}


class SaysWhere(TorchFunctionMode):
    """Notes the lines of the package that make a tensor without a device."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: set[str] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        copies = func is torch.as_tensor and isinstance(args[0], torch.Tensor)
        if func in _MAKERS and kwargs.get("device") is None and not copies:
            frame = sys._getframe(1)
            if frame.f_code.co_filename.startswith(PACKAGE):
                self.lines.add(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        return func(*args, **kwargs)

"""Operators on tensors without data: what they make is remembered by the shapes that they were given.

PyTorch finds most shapes on its meta device in Python, a tenth of a millisecond an operator. A plan runs the same
networks on the same shapes many times.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

Layout = tuple[torch.Size, tuple[int, ...], torch.dtype]

_LAYOUTS: dict[Any, Any] = {}
_ANEW = object()
"""In place of a layout, where the operator must run each time."""


def dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operator makes. A tensor without data that is asked for its numbers answers with zeros."""
    if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
        return torch.zeros((), dtype=args[0].dtype).item()
    if func is torch.ops.aten._to_copy.default and args[0].is_meta and _is_cpu(kwargs.get("device")):
        return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
    parts: list[Any] = [func]
    if not makes_new(func) or not _describe(args, parts) or (kwargs and not _describe(tuple(kwargs.items()), parts)):
        return func(*args, **kwargs)
    key = tuple(parts)
    layout = _LAYOUTS.get(key)
    if layout is None or layout is _ANEW:
        made = func(*args, **kwargs)
        if layout is None:
            _LAYOUTS[key] = _layout(made, args)
        return made
    return _blank(layout)


@functools.cache
def makes_new(func: Any) -> bool:
    """Whether an operator writes to none of its inputs and returns views of none."""
    return not func.is_view and all(
        value.alias_info is None for value in (*func._schema.returns, *func._schema.arguments)
    )


def _is_cpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cpu"


def _describe(values: Any, parts: list[Any]) -> bool:
    """Add what decides the shapes of an operator's result to `parts`; False where numbers decide too."""
    for value in values:
        if isinstance(value, Tensor):
            if not value.is_meta and value.ndim:
                return False
            parts += (value.shape, value.stride(), value.dtype, value.is_meta)
        elif isinstance(value, (tuple, list)):
            parts.append(len(value))
            if not _describe(value, parts):
                return False
        elif isinstance(value, torch.Generator):
            return False
        else:
            parts += (value.__class__, value)  # 1, 1.0 and True are equal, and the types of what they make differ
    return True


def _layout(made: Any, args: tuple[Any, ...]) -> Any:
    """What it takes to make tensors like these, or `_ANEW` where that is not known."""
    if made is None:
        return (None,)
    if isinstance(made, (tuple, list)):
        layouts = [_layout(value, args) for value in made]
        return _ANEW if any(layout is _ANEW for layout in layouts) else (type(made), layouts)
    if not isinstance(made, Tensor) or not made.is_meta or made.storage_offset():
        return _ANEW
    storage = made.untyped_storage()._cdata
    if any(storage == value.untyped_storage()._cdata for value in args if isinstance(value, Tensor)):
        return _ANEW  # as `_unsafe_view`, which shares its input's memory
    return (made.shape, made.stride(), made.dtype)


def _blank(layout: Any) -> Any:
    """Tensors of a layout."""
    if len(layout) == 3:
        return torch.empty_strided(layout[0], layout[1], dtype=layout[2], device="meta")
    if len(layout) == 1:
        return None
    return layout[0](_blank(part) for part in layout[1])

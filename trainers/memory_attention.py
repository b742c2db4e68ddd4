"""Attention as the fused kernels count in memory, for tensors without data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class _Fused(torch.autograd.Function):
    """Keeps queries, keys, values, output and one number a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(torch.empty_like(one) for one in ctx.saved_tensors[:3])


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """On meta tensors, scaled_dot_product_attention otherwise takes the form that keeps every score."""
    functional = torch.nn.functional
    kept = functional.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
        return _Fused.apply(query, key, value)

    functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = kept

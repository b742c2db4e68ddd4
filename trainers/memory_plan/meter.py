"""How many bytes of tensors are alive while code runs, with data or without."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.profiler
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainers.memory_plan.no_data import dispatch, makes_new

BLOCK = 16
"""Channels that oneDNN keeps together, in float32 and bfloat16 with AVX-512."""

Workspace = Callable[[Any, tuple[Any, ...], Any], int]


class MemoryMeter(TorchDispatchMode):
    """Counts the storages that operators make, once each, until they are freed; meta tensors count as real ones would.

    What was alive before is not seen. Inside, a tensor without data that is asked for its numbers answers with zeros.

    Args:
        workspace: (operator, its arguments, its result) -> bytes that it needs beside them while it runs.
    """

    def __init__(self, workspace: Workspace = lambda func, args, made: 0) -> None:
        super().__init__()
        self.bytes = self.peak_bytes = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        self._paused = False
        self.workspace = workspace

    def take_peak(self) -> int:
        """The peak since the last call."""
        peak, self.peak_bytes = self.peak_bytes, self.bytes
        return peak

    def spike(self, size: int) -> None:
        """Count bytes that were alive for a moment."""
        self.peak_bytes = max(self.peak_bytes, self.bytes + size)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, nothing new is counted."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def _count(self, tensor: Any, given: set[int]) -> None:
        if not isinstance(tensor, Tensor):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in given:
            return
        size = storage.nbytes()

        def freed(reference: weakref.ref[Any]) -> None:
            del self._known[key]
            self.bytes -= size

        self._known[key] = weakref.ref(storage, freed)
        self.bytes += size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        if not makes_new(func):
            return dispatch(func, args, kwargs)  # what it returns was there before
        made = dispatch(func, args, kwargs)
        given = {argument.untyped_storage()._cdata for argument in args if isinstance(argument, Tensor)}
        if isinstance(made, Tensor):
            self._count(made, given)
        else:
            for tensor in tree_leaves(made):
                self._count(tensor, given)
        self.spike(self.workspace(func, args, made))
        return made


def allocator_peak_bytes(function: Callable[[], Any]) -> int:
    """Peak of what the CPU allocator hands out while `function` runs, by the profiler's record."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    record: Any = profile.profiler
    events = [event for event in record.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def cpu_workspace(func: Any, args: tuple[Any, ...], made: Any) -> int:
    """Bytes that a convolution takes on a CPU beside its operands.

    oneDNN orders operands anew. Few small inputs in float32 are unfolded instead: a copy for each place of the kernel.
    The choice between them is that of `use_mkldnn` in PyTorch's ATen/native/Convolution.cpp.
    """
    if func is torch.ops.aten.convolution.default:
        inputs, weight, transposed, out = args[0], args[1], args[6], made
    elif func is torch.ops.aten.convolution_backward.default:
        inputs, weight, transposed, out = args[1], args[2], args[7], args[0]
    else:
        return 0
    small = len(inputs) == 1 and math.prod(inputs.shape[:4]) <= 20480 and max(weight.shape[-2:]) <= 3
    if small and inputs.dtype == torch.float32 and not transposed:
        places = math.prod(weight.shape[2:])
        columns = inputs.shape[1] * places * out[0, 0].numel() * inputs.element_size()
        return 0 if places == 1 else columns
    if func is torch.ops.aten.convolution.default:
        return max(_bytes(inputs) + _in_blocks(weight, 0), _bytes(out))
    orders = 2 if args[10][1] else 1  # of the weight: for its own gradient once more
    return _bytes(out) + orders * _in_blocks(weight, 1) + _bytes(inputs)


def _in_blocks(weight: Tensor, dim: int) -> int:
    """Bytes of a weight whose channels are filled up to whole blocks."""
    channels = weight.shape[dim]
    return _bytes(weight) * math.ceil(channels / BLOCK) * BLOCK // channels


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class _Fused(torch.autograd.Function):
    """Keeps queries, keys, values, output and one number a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


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

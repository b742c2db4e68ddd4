"""Exact decoding under gradient with bounded memory: a clip in pieces of time, and within them block by block.

Axes: B clips, C channels, F latent frames, T frames, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

SLOTS = 3
"""States that are kept for the backward pass, however long the clip."""

BLOCKS = ("Resnet", "ResidualBlock", "Resample", "Upsampl")
"""Parts of the names of the stock decoders' classes whose activations are evaluated again."""

DecodeChunk = Callable[[Tensor, Any], tuple[Tensor, Any]]


def in_chunks(decode_chunk: DecodeChunk, chunks: Sequence[Tensor], *, checkpointing: bool) -> Tensor:
    """Decode chunks one after another, each from the state that the one before left; exact.

    With checkpointing the backward pass goes through the chunks from the last to the first, with the graph of a single
    one alive, and hands each state's gradient on to the chunk before. The states themselves are evaluated again from at
    most `SLOTS` that are kept: memory does not grow with their number, work grows with its logarithm.

    Args:
        decode_chunk: (chunk, state) -> (frames (B, C, T, H, W), state), without side effects; the first state is None.
            No gradient reaches what it closes over.

    Returns:
        The frames of all chunks (B, C, T, H, W).

    Reference: Griewank and Walther, Algorithm 799: Revolve (2000).
    """
    if checkpointing and torch.is_grad_enabled():
        frames = _Reversed.apply(decode_chunk, *chunks)
        assert isinstance(frames, Tensor)
        return frames
    frames_of_chunks, state = [], None
    for chunk in chunks:
        frames, state = decode_chunk(chunk, state)
        frames_of_chunks.append(frames)
    return torch.cat(frames_of_chunks, dim=2)


class _Reversed(torch.autograd.Function):
    """Chunks whose graph is made and used one at a time, backwards."""

    @staticmethod
    def forward(ctx: Any, decode_chunk: DecodeChunk, *chunks: Tensor) -> Tensor:
        ctx.decode_chunk, ctx.kept = decode_chunk, {0: None}
        ctx.save_for_backward(*chunks)
        frames_of_chunks: list[Tensor] = []
        last = _advanced(decode_chunk, chunks, ctx.kept, len(chunks) - 1, frames_of_chunks.append)
        frames_of_chunks.append(decode_chunk(chunks[-1], last)[0])
        ctx.kept[len(chunks) - 1] = last
        ctx.lengths = [frames.shape[2] for frames in frames_of_chunks]
        return torch.cat(frames_of_chunks, dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_frames: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        chunks, kept, ctx.kept = ctx.saved_tensors, ctx.kept, {0: None}
        grads: list[Tensor] = []
        grads_after: list[Tensor | None] = []
        for index in range(len(chunks) - 1, -1, -1):
            state = _advanced(ctx.decode_chunk, chunks, kept, index)
            kept.pop(index, None)
            of_frames = grad_frames.narrow(2, sum(ctx.lengths[:index]), ctx.lengths[index])
            of_chunk, grads_after = _backward(ctx.decode_chunk, chunks[index], state, of_frames, grads_after)
            grads.append(of_chunk)
        return None, *reversed(grads)


def _backward(
    decode_chunk: DecodeChunk, chunk: Tensor, state: Any, grad_frames: Tensor, grads_after: list[Tensor | None]
) -> tuple[Tensor, list[Tensor | None]]:
    """Gradients of one chunk and of the leaves of the state that enters it, from those of what comes out."""
    leaves, tree = tree_flatten(state)
    leaves = [leaf.detach().requires_grad_() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    chunk = chunk.detach().requires_grad_()
    with torch.enable_grad():
        frames, after = decode_chunk(chunk, tree_unflatten(leaves, tree))
    ends = [(frames, grad_frames), *zip(tree_flatten(after)[0], grads_after, strict=False)]
    heads, sources = zip(*(pair for pair in ends if pair[1] is not None), strict=True)
    inputs = [chunk, *(leaf for leaf in leaves if isinstance(leaf, Tensor))]
    del frames, after, ends
    gradients = list(torch.autograd.grad(heads, inputs, sources, allow_unused=True))
    of_chunk = gradients.pop(0)
    return of_chunk, [gradients.pop(0) if isinstance(leaf, Tensor) else None for leaf in leaves]


def _advanced(
    decode_chunk: DecodeChunk,
    chunks: Sequence[Tensor],
    kept: dict[int, Any],
    index: int,
    use: Callable[[Tensor], None] = lambda frames: None,
) -> Any:
    """The state that enters chunk `index`, from the nearest that is kept; on the way others are put into `kept`.

    Args:
        kept: states by the index of the chunk that they enter.
        use: takes the frames that come out on the way.
    """
    with torch.no_grad():
        place = max(kept)
        state, following = kept[place], place
        while place < index:
            if place == following:
                following = place + _stride(index + 1 - place, SLOTS + 1 - len(kept))
            frames, state = decode_chunk(chunks[place], state)
            use(frames)
            place += 1
            if place == following:
                kept[place] = state
        return state


@functools.cache
def _work(chunks: int, slots: int) -> tuple[int, int]:
    """Chunks to evaluate again so that each can be reversed, from a kept first state; how far to the next one kept."""
    if chunks == 1:
        return 0, 1
    if slots == 0:
        return chunks * (chunks - 1) // 2, chunks
    return min((go + _work(chunks - go, slots - 1)[0] + _work(go, slots)[0], go) for go in range(1, chunks))


def _stride(chunks: int, slots: int) -> int:
    return _work(chunks, slots)[1]


@contextlib.contextmanager
def tiles_checkpointed(decoder: nn.Module, active: bool) -> Iterator[None]:
    """Inside, a stock decoder that is called tile by tile keeps a tile's input alone; then block by block; exact."""
    forward = decoder.forward

    def tile(*args: Any) -> Any:
        with blocks_checkpointed(decoder, True):
            return forward(*args)

    if active:
        decoder.forward = functools.partial(_again, tile)
    try:
        yield
    finally:
        if active:
            del decoder.forward


@contextlib.contextmanager
def tiled(vae: Any, side_px: int) -> Iterator[None]:
    """Inside, a stock autoencoder decodes in squares that overlap by a quarter and are blended; 0 is the whole.

    Not exact: what lies outside a square is not seen from inside. Blending keeps seams from showing.
    """
    if not side_px:
        yield
        return
    stride = side_px * 3 // 4
    vae.enable_tiling(
        tile_sample_min_height=side_px,
        tile_sample_min_width=side_px,
        tile_sample_stride_height=stride,
        tile_sample_stride_width=stride,
    )
    try:
        yield
    finally:
        vae.disable_tiling()


@contextlib.contextmanager
def blocks_checkpointed(decoder: nn.Module, active: bool) -> Iterator[None]:
    """Inside, a stock decoder's blocks keep their inputs alone and are evaluated again in backward; exact."""
    blocks = (
        [module for module in decoder.modules() if any(part in type(module).__name__ for part in BLOCKS)]
        if active
        else []
    )
    wrapped = [
        block
        for block in blocks
        if not any(block is not container and _holds(container, block) for container in blocks)
    ]
    for block in wrapped:
        block.forward = functools.partial(_again, block.forward)
    try:
        yield
    finally:
        for block in wrapped:
            del block.forward


def _holds(block: nn.Module, module: nn.Module) -> bool:
    return any(part is module for part in block.modules())


def _again(
    forward: Callable[..., Any], *args: Any, feat_cache: Any = None, feat_idx: Any = None, **options: Any
) -> Any:
    """`forward`, again in backward. Wan's blocks change the lists that they are given: they get copies."""
    if not torch.is_grad_enabled():
        own = {} if feat_cache is None else {"feat_cache": feat_cache, "feat_idx": feat_idx}
        return forward(*args, **own, **options)
    again = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    if feat_cache is None:
        return again(forward, *args, **options)

    def pure(*args: Any) -> tuple[Any, list[Any], list[int]]:
        caches, place = list(feat_cache_before), list(feat_idx_before)
        return forward(*args, caches, place, **options), caches, place

    feat_cache_before, feat_idx_before = list(feat_cache), list(feat_idx)
    result: Any = again(pure, *args)
    feat_cache[:], feat_idx[:] = result[1], result[2]
    return result[0]

"""A network too large for its device: the frozen weights of its blocks wait on the CPU until the block runs."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

AT_HAND = 2
"""Blocks whose weights are on the device: the one that runs and the one that ran before it."""


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks that a transformer runs one after another."""
    stacks = [list(child) for child in network.children() if isinstance(child, nn.ModuleList)]
    return list(itertools.chain.from_iterable(stacks))


class Offloaded:
    """Brings each block's frozen weights to the device before it runs, and sends those of the block before last away.

    Frozen weights never change, so that nothing is copied back. A backward pass finds a block's weights at hand only
    where the block is evaluated again just before: with `checkpoint_blocks`. Weights that are trained, as a LoRA's
    that is added later, stay on the device.

    Args:
        network: its blocks may be anywhere; the rest is moved to `device` here.
    """

    def __init__(self, network: nn.Module, device: torch.device | str) -> None:
        self.device = device
        self.near: list[nn.Module] = []
        blocks = blocks_of(network)
        self.home: dict[nn.Module, list[tuple[nn.Parameter, Tensor]]] = {
            block: [(weight, weight.data) for weight in block.parameters()] for block in blocks
        }
        inside = {weight for home in self.home.values() for weight, _ in home}
        for tensor in itertools.chain(network.parameters(), network.buffers()):
            if tensor not in inside:
                tensor.data = tensor.data.to(device)
        for block in blocks:
            self.send_away(block)
            block.register_forward_pre_hook(self._bring)

    def _bring(self, block: nn.Module, args: Any) -> None:
        if block in self.near:
            return
        for weight, home in self.home[block]:
            weight.data = home.to(self.device, non_blocking=True, copy=True)
        self.near.append(block)
        while len(self.near) > AT_HAND:
            self.send_away(self.near.pop(0))

    def send_away(self, block: nn.Module) -> None:
        for weight, home in self.home[block]:
            weight.data = home

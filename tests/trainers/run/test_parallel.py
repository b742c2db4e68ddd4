"""The mean gradient over processes, without the processes."""

import types

import torch
from accelerate.utils import DistributedType

from trainers.run.parallel import average_gradients


def test_a_weight_without_gradient_on_any_process_keeps_none(monkeypatch):
    """The other process has a gradient of 4 for the second weight alone."""
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    weights[0].grad = torch.tensor([1.0, 2.0])

    def all_reduce(flat):
        flat += torch.tensor([0.0, 0, 4, 4, 0, 0, 0, 1, 0])

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    two = types.SimpleNamespace(num_processes=2, distributed_type=DistributedType.MULTI_CPU)
    average_gradients(two, weights)
    assert weights[0].grad.tolist() == [0.5, 1.0]
    assert weights[1].grad.tolist() == [2.0, 2.0]
    assert weights[2].grad is None
    torch.optim.AdamW(weights, lr=1.0, weight_decay=0.5).step()
    assert weights[2].tolist() == [1.0, 1.0]

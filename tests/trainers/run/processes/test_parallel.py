"""How several processes talk: for how long they wait, and what becomes of their gradients."""

import types

import pytest
import torch
from accelerate.utils import DistributedType

from trainers.run.processes import parallel
from trainers.run.processes.parallel import average_gradients


@pytest.fixture
def made(monkeypatch):
    """What `make_accelerator` asks accelerate for, as one of several processes."""

    def make(reward_timeout_s, *, gpu, **environment):
        asked = {}
        monkeypatch.setattr(parallel, "Accelerator", lambda **options: asked.update(options) or types.SimpleNamespace())
        monkeypatch.setattr(parallel, "is_sharded", lambda accelerator: False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setenv("LOCAL_RANK", "0")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        parallel.make_accelerator(reward_timeout_s)
        (talk,) = asked["kwargs_handlers"]
        return asked["cpu"], talk.backend, talk.timeout.total_seconds()

    return make


@pytest.mark.parametrize("gpu", [False, True])
def test_a_gradient_waits_longer_than_a_reward_may_take(made, gpu):
    backend = "nccl" if gpu else "gloo"
    assert made(7200.0, gpu=gpu) == (not gpu, backend, 7800.0)
    assert made(10.0, gpu=gpu) == (not gpu, backend, 1800.0)
    assert made(0.0, gpu=gpu)[2] == parallel.PATIENT.total_seconds()


def test_a_gpu_that_the_launcher_leaves_out_is_not_talked_through(made):
    assert made(10.0, gpu=True, ACCELERATE_USE_CPU="True")[:2] == (True, "gloo")


def test_deepspeed_without_a_gpu_talks_through_gloo(made):
    assert made(10.0, gpu=False, ACCELERATE_USE_DEEPSPEED="true")[:2] == (False, "gloo")


def test_one_process_waits_for_nobody_and_gathers_its_own(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    waited = []
    parallel.wait_for_all(types.SimpleNamespace(wait_for_everyone=lambda: waited.append(1)))
    assert waited == [1] and parallel.gathered_by_all({"a": 1}) == [{"a": 1}]


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

"""How several processes are told to talk, and for how long they wait."""

import types

import pytest
import torch

from trainers.run import parallel


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

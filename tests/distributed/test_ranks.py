"""Two CPU processes through real `accelerate launch`: equal weights after every step, the gradients of one process.

Every trainer under plain data parallelism and ZeRO-1, 2 and 3: one launch a configuration does all of it.
"""

import json
import shutil

import pytest
import torch
from launches import OWN, alone, experiment, launch
from safetensors.torch import load_file

from trainers.models.tiny.wan import tiny_wan
from trainers.monitor import resources as monitor_resources
from trainers.run import records
from trainers.run.checkpoint import checkpoints

STEPS = 4
SIGNED = {"weighting": "signed", "max_steps": 2}


def gradients(world, name):
    """(steps, weights) of a training."""
    steps = torch.load(world / f"{name}.gradients.pt", weights_only=True)
    return torch.stack([torch.cat([one.flatten().double() for one in step]) for step in steps])


def difference(world, name, other):
    """The largest |g - g'| / |g'| of the steps that both have."""
    ours, theirs = gradients(world, name), gradients(world, other)
    steps = min(len(ours), len(theirs))
    return ((ours[:steps] - theirs[:steps]).norm(dim=1) / theirs[:steps].norm(dim=1)).max().item()


@pytest.fixture(scope="module")
def one(world):
    """One process at twice the batch, by trainer."""
    trainings = [experiment(world, f"one_{name}", name, per_device_train_batch_size=4) for name in OWN]
    limited = {"max_pixel_grad_ratio": 1.0, "max_steps": 1, "per_device_train_batch_size": 4}
    signed = experiment(world, "one_signed", "rwr", **SIGNED, per_device_train_batch_size=4)
    return alone(world, [*trainings, signed, experiment(world, "one_limited", "oro", **limited)])


def plan(world, zero):
    """All that is asked of a launch configuration."""
    tag = f"zero{zero}"
    trainings = [experiment(world, f"{name}_{tag}", name) for name in OWN]
    small = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 2}
    trainings += [experiment(world, f"{name}_{tag}_accumulated", name, **small) for name in OWN]
    trainings.append(experiment(world, f"limited_{tag}", "oro", max_pixel_grad_ratio=1.0, max_steps=1))
    trainings.append(experiment(world, f"signed_{tag}", "rwr", **SIGNED))
    if zero in (2, 3):
        trainings.append(experiment(world, f"bf16_{tag}", "oro", bf16=True, max_steps=1))
    if zero in (0, 2):
        for name in OWN:
            folder = f"{name}_{tag}_part"
            trainings.append(experiment(world, folder, name, max_steps=2))
            resumed = {"folder": folder, "resume_from_checkpoint": "auto"}
            trainings.append(experiment(world, f"{name}_{tag}_resumed", name, **resumed))
    if zero == 0:
        trainings.append(experiment(world, "nan", "oro", fault="nan", max_steps=3))
        trainings.append(experiment(world, "slow", "oro", fault="slow", max_steps=6))
    return trainings


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_two_ranks_hold_equal_weights_after_every_step_and_have_the_gradients_of_one(world, one, zero):
    if zero:
        pytest.importorskip("deepspeed")
    (found, said), tag = launch(world, plan(world, zero), zero), f"zero{zero}"
    assert difference(world, f"limited_{tag}", "one_limited") < 1e-5
    assert difference(world, f"signed_{tag}", "one_signed") < 1e-5
    assert found[f"signed_{tag}"][0]["hashes"] == found[f"signed_{tag}"][1]["hashes"]
    for name in OWN:
        ranks = found[f"{name}_{tag}"]
        assert sorted(ranks) == [0, 1]
        assert ranks[0]["hashes"] == ranks[1]["hashes"]  # after every step
        assert len(set(ranks[0]["hashes"])) == STEPS
        assert len(one[f"one_{name}"]["hashes"]) == STEPS
        assert difference(world, f"{name}_{tag}", f"one_{name}") < 1e-5
        assert difference(world, f"{name}_{tag}_accumulated", f"one_{name}") < 1e-5
        if zero in (0, 2):
            resumed = found[f"{name}_{tag}_resumed"]
            assert resumed[0]["hashes"] == resumed[1]["hashes"] == ranks[0]["hashes"][2:]
            assert (gradients(world, f"{name}_{tag}_part") == gradients(world, f"{name}_{tag}")[2:]).all()
    if zero in (2, 3):
        half = found[f"bf16_{tag}"]
        assert half[0]["dtypes"] == half[1]["dtypes"] == ["torch.bfloat16", "torch.float32"]
        assert half[0]["hashes"] == half[1]["hashes"]
    if zero == 0:
        of_a_step_without_a_finite_gradient(world, found["nan"], said)
        of_a_slow_process(world)


def of_a_step_without_a_finite_gradient(world, ranks, said):
    """One process's loss was not finite in step 2: both made no step, and its clips are named."""
    for rank in ranks.values():
        assert rank["hashes"] == ranks[0]["hashes"]
        assert rank["hashes"][0] == rank["hashes"][1] != rank["hashes"][2]
    lines = [json.loads(line) for line in (world / "nan" / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0.0, 1.0, 0.0]
    assert "warning: step 2 has no finite gradient and changes nothing" in said
    assert "is not finite on process 1" in said
    assert "warning: the loss of train-" in said


def of_a_slow_process(world):
    """The reward of process 1 takes half a second longer: it is named, as is what both hold."""
    run = records.read_run(world / "slow")
    (alarm,) = monitor_resources.alarms(run.processes)
    assert alarm.startswith("process 1 is a straggler")
    assert run.lines[-1]["slowest_process"] == 1
    assert run.lines[-1]["seconds/wait"] > 0.3
    assert [len(run.processes[-1][name]) for name in ("held_gb", "open_files", "seconds")] == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_ranks_that_share_the_tokens_of_wan_have_the_gradients_of_one(world):
    """Context parallelism: every step of the rollout carries gradient, evaluated again in backward."""
    tiny_wan(world / "wan")
    options = {"model_name_or_path": str(world / "wan"), "image_conditioning": False, "max_steps": 3, "num_frames": 9}
    options |= {"denoising_weight": 0.1, "guidance_scale": 2.0, "eval_steps": 3, "eval_scenes": 1, "lora_path": None}
    wan = {name: experiment(world, f"wan_{name}", "oro", **options) for name in ("one", "two")}
    alone(world, [wan["one"]])
    wan["two"]["settings"]["context_parallel_size"] = 2
    found, _ = launch(world, [wan["two"]])
    assert found["wan_two"][0]["hashes"] == found["wan_two"][1]["hashes"]
    assert len(set(found["wan_two"][0]["hashes"])) == 3
    assert difference(world, "wan_two", "wan_one") < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_expert_without_gradient_stays_under_two_ranks_as_under_one(world):
    """Weight decay would move the high-noise expert of a tiny A14B, which the last step does not visit."""
    tiny_wan(world / "a14b", layout="a14b")
    options = {"model_name_or_path": str(world / "a14b"), "image_conditioning": False, "lora_path": None}
    options |= {"grad_steps": "last", "denoising_weight": 0.0, "reference_weight": 0.0, "weight_decay": 0.5}
    options |= {"num_frames": 9, "max_steps": 2, "num_inference_steps": 4, "ema_decay": 0.0}
    alone(world, [experiment(world, "experts_one", "oro", **options, per_device_train_batch_size=2)])
    launch(world, [experiment(world, "experts_two", "oro", **options, per_device_train_batch_size=1)])
    one, two = (load_file(world / f"experts_{count}" / "pytorch_lora_weights.safetensors") for count in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert "**Not trained:** `pytorch_lora_weights.safetensors`" in (world / "experts_two" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_is_promised_when_the_number_of_processes_changes(world, one):
    """Without DeepSpeed one process goes on with the clips, weights and optimizer of two; shards are refused."""
    launched = [experiment(world, f"{name}_of_two", name, max_steps=2) for name in OWN]
    launch(world, launched)
    for name in OWN:
        changed = {"per_device_train_batch_size": 4, "resume_from_checkpoint": "auto", "folder": f"{name}_of_two"}
        found = alone(world, [experiment(world, f"{name}_then_one", name, **changed)])
        assert len(found[f"{name}_then_one"]["hashes"]) == 2
        ours, theirs = gradients(world, f"{name}_of_two"), gradients(world, f"one_{name}")[2:]
        assert ((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).max() < 1e-5
    pytest.importorskip("deepspeed")
    launch(world, [experiment(world, "shards", "oro", max_steps=2)], zero=2)
    assert checkpoints(world / "shards")
    with pytest.raises(ValueError, match="was written by 2 processes with DeepSpeed and cannot go on with 1"):
        alone(world, [experiment(world, "shards", "oro", resume_from_checkpoint="auto")])
    shutil.rmtree(world / "shards")

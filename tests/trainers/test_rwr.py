"""RWR on a toy world: its laws to the last bit, exact resume, offline folders, and what it refuses."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from run_reading import lora_of

from trainers import psft, rwr
from trainers.clips.folder import ClipFolder, Sample
from trainers.clips.scored import ScoredClips, read_rewards, write_rewards
from trainers.learning.batches import Scenes, condition_on
from trainers.learning.clocks import Phases
from trainers.learning.losses import contrast_loss, denoising_loss
from trainers.learning.streams import clip_generators
from trainers.models import lora_parameters
from trainers.models.ltx import LTXModel
from trainers.rounds.replay import Clip, Replay, shard_name
from trainers.run.averages import holding
from trainers.settings.regression import PSFTConfig, RWRConfig

ROUND = {"num_generations": 2, "prompts_per_round": 2, "inner_steps": 2, "sampling_batch_size": 3}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def metrics_of(config):
    return [json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()]


def figures_of(config):
    """The log without what depends on the machine."""
    return [
        {name: value for name, value in line.items() if not name.startswith(("seconds", "memory"))}
        for line in metrics_of(config)
    ]


def constant(reward_B, frames_BTCHW):
    return torch.full_like(reward_B, -0.37)


def test_a_constant_reward_is_plain_fine_tuning_to_the_last_bit(base, brightness, tmp_path):
    loras = []
    for name, changes in {"rwr": {"absolute_scale": 0.0}, "plain": {"weighting": "uniform"}}.items():
        config = RWRConfig(**base | ROUND | changes | {"output_dir": str(tmp_path / name)})
        rwr.train(config, recipe=brightness(constant))
        loras.append(lora_of(config))
    assert equal(*loras)
    assert any((weight != 0).any() for name, weight in loras[0].items() if "lora_B" in name)
    different = RWRConfig(**base | ROUND | {"absolute_scale": 0.0, "temperature": 1e-5})
    rwr.train(different, recipe=brightness())
    assert not equal(loras[0], lora_of(different))


def test_signed_weights_of_a_constant_reward_teach_nothing_at_all(base, brightness, tmp_path):
    for name, change in {"constant": constant, "varied": lambda reward_B, _: reward_B}.items():
        signed = {"weighting": "signed", "output_dir": str(tmp_path / name)}
        config = RWRConfig(**base | ROUND | signed)
        rwr.train(config, recipe=brightness(change))
        moved = [(weight != 0).any() for weight_name, weight in lora_of(config).items() if "lora_B" in weight_name]
        assert any(moved) == (name == "varied")


def test_the_contrast_at_advantage_one_is_the_plain_loss_and_at_the_policy_its_gradient_is_signed(base):
    """With beta 1 and A = 1 the policy drops out; at v = v_o the gradient is A times the plain one."""
    model = LTXModel.load(base["model_name_or_path"])
    model.add_lora(r=2, alpha=2.0)
    weights = lora_parameters(model.transformer)
    scenes = Scenes(PSFTConfig(**base), "train", shuffle=False)
    batch = scenes.batch([0, 1])
    condition = condition_on(model, batch, PSFTConfig(**base), clip_generators(0, [0, 1]))
    clean = model.pin(model.encode_clip(batch.video.frames_BTCHW), condition)
    same = {name: weight.detach().clone() for name, weight in weights.items()}
    other = {name: torch.randn_like(weight) for name, weight in weights.items()}

    def plain(weight_B=None):
        drawn = clip_generators(0, [0, 1], 2)
        return denoising_loss(model, clean, condition, sigma_range=[0, 1], generators=drawn, weight_B=weight_B)

    def contrast(advantage_B, policy, beta=1.0):
        return contrast_loss(
            model,
            clean,
            condition,
            sigma_range=[0, 1],
            generators=clip_generators(0, [0, 1], 2),
            advantage_B=advantage_B,
            policy=holding(weights, policy),
            beta=beta,
        )

    loss, moved = contrast(torch.ones(2), other)
    torch.testing.assert_close(loss, plain())
    assert moved > 0
    advantage_B = torch.tensor([0.5, -0.25])
    loss, moved = contrast(advantage_B, same, beta=0.5)
    assert moved == 0
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    expected = torch.autograd.grad(plain(0.5 * advantage_B), list(weights.values()), allow_unused=True)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.fixture
def sampled(base, tmp_path):
    """The data's own clips as a folder of scored clips."""
    scenes = Scenes(PSFTConfig(**base), "train", shuffle=False)
    folder = ClipFolder(tmp_path / "sampled", {"made": "by hand"})
    for number in range(len(scenes)):
        batch = scenes.batch([number])
        sample = Sample(name=f"clip{number}", prompt=batch.captions[0], seed=number, fps=16.0, scene=batch.ids[0])
        folder.write(sample, batch.video.frames_BTCHW[0])
    write_rewards(folder.folder, {f"clip{number}": -0.5 for number in range(len(scenes))})
    return folder.folder


def test_offline_on_the_data_with_equal_scores_is_supervised_fine_tuning_to_the_last_bit(base, sampled, tmp_path):
    """Six steps of two clips go more than twice through the five clips."""
    base["max_steps"] = 6
    supervised = PSFTConfig(**base | {"output_dir": str(tmp_path / "psft")})
    psft.train(supervised)
    offline = RWRConfig(**base | {"scored": [str(sampled)], "absolute_scale": 0.0})
    rwr.train(offline)
    assert equal(lora_of(supervised), lora_of(offline))


def test_resume_in_the_middle_of_a_round_is_exact(base, brightness, tmp_path):
    options = ROUND | {"ema_decay": 0.9, "replay_rounds": 2, "reference_weight": 0.3, "max_steps": 5}
    whole = RWRConfig(**base | options | {"output_dir": str(tmp_path / "whole")})
    rwr.train(whole, recipe=brightness())
    part = base | options | {"output_dir": str(tmp_path / "part")}
    rwr.train(RWRConfig(**part | {"max_steps": 3}), recipe=brightness())
    replay = Replay(tmp_path / "part", rounds=2)
    replay.finish_round(7, [Clip(number=999, reward=0.0, weight=9.0, file="absent")])  # left by a crash later on
    torch.manual_seed(123)
    resumed = RWRConfig(**part | {"resume_from_checkpoint": "auto"})
    rwr.train(resumed, recipe=brightness())
    assert equal(lora_of(whole), lora_of(resumed))
    assert figures_of(whole) == figures_of(resumed)
    assert Replay(resumed.output_dir, rounds=2).indices() == [1, 2]
    assert (Path(resumed.output_dir) / "checkpoint-5" / "replay").is_dir()


def test_resume_of_a_signed_round_goes_on_against_the_policy_that_made_it(base, brightness, tmp_path):
    options = ROUND | {"weighting": "signed", "inner_steps": 3, "max_steps": 5}
    whole = RWRConfig(**base | options | {"output_dir": str(tmp_path / "whole")})
    rwr.train(whole, recipe=brightness())
    part = base | options | {"output_dir": str(tmp_path / "part")}
    rwr.train(RWRConfig(**part | {"max_steps": 4}), recipe=brightness())
    rwr.train(RWRConfig(**part | {"resume_from_checkpoint": "auto"}), recipe=brightness())
    assert equal(lora_of(whole), lora_of(RWRConfig(**part)))
    distances = [line["policy_distance"] for line in metrics_of(whole)]
    assert [distance == 0 for distance in distances] == [True, False, False, True, False]


def test_a_reward_without_gradient_trains_and_the_round_is_logged(base, brightness):
    config = RWRConfig(**base | ROUND | {"target_ess": 0.7, "eval_steps": 4, "eval_scenes": 2})
    metrics = rwr.train(config, recipe=brightness(lambda reward_B, _: (reward_B.detach() * 1000).round()))
    assert metrics["grad_norm"] > 0
    assert metrics["eval/measurable"] == 1
    first, second = metrics_of(config)[1:3]
    expected = {"reward", "ess", "weight_entropy", "temperature", "reward_p50", "absolute_weight", "denoising_loss"}
    assert expected <= first.keys()
    assert "reward" not in second  # of the round, told once
    assert (Path(config.output_dir) / "README.md").read_text().count("RWR")


def test_clips_that_nobody_could_measure_teach_nothing(base, brightness):
    config = RWRConfig(**base | ROUND | {"max_steps": 2, "sampling_batch_size": 2})
    metrics = rwr.train(config, recipe=brightness(blind=[0, 1]))
    assert metrics["grad_norm"] == 0
    assert metrics_of(config)[0]["measurable"] == 0
    assert all((weight == 0).all() for name, weight in lora_of(config).items() if "lora_B" in name)


def test_the_samples_do_not_depend_on_how_many_are_made_at_a_time(base, brightness):
    model = LTXModel.load(base["model_name_or_path"])
    model.add_lora(r=2, alpha=2.0)
    config = RWRConfig(**base | ROUND)
    scenes = Scenes(config, "train")
    recipe = brightness()
    together, scored = rwr.sample_and_score(config, recipe, model, scenes, [0, 1, 2], Phases())
    alone, one = rwr.sample_and_score(config, recipe, model, scenes, [2], Phases())
    torch.testing.assert_close(together[2:], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scored.reward_B[2:], one.reward_B, atol=1e-4, rtol=1e-4)
    assert not torch.equal(together[0], together[1])  # two samples of one prompt


def test_an_adapter_outside_its_noise_levels_leaves_the_base_models_samples(base, brightness):
    model = LTXModel.load(base["model_name_or_path"])
    made = {}
    for name, active in {"base": None, "nowhere": [0.0, 0.0], "early": [0.9, 1.0], "everywhere": [0.0, 1.0]}.items():
        config = RWRConfig(
            **base
            | ROUND
            | {"adapter_sigma_range": active or [0.0, 1.0], "denoising_sigma_range": active or [0.0, 1.0]}
        )
        made[name], _ = rwr.sample_and_score(config, brightness(), model, Scenes(config, "train"), [0], Phases())
        if active is None:
            model.add_lora(r=2, alpha=64.0)
            for parameter in lora_parameters(model.transformer).values():
                torch.nn.init.normal_(parameter.data, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made["nowhere"], made["base"])
    assert not torch.equal(made["early"], made["base"])
    assert not torch.equal(made["early"], made["everywhere"])


def test_the_replay_is_bounded_and_a_half_written_round_is_not_there(tmp_path):
    replay = Replay(tmp_path, rounds=2)
    for index in range(4):
        replay.write_latents(index, 0, [index], [torch.full((3,), float(index))])
        replay.finish_round(index, [Clip(number=index, reward=-1.0, weight=1.0, file=shard_name(index, 0))])
    replay.write_latents(4, 0, [4], [torch.zeros(3)])
    assert [clip.number for clip in replay.clips()] == [2, 3]
    assert replay.latents(replay.clips()[1:])[0].tolist() == [3.0, 3.0, 3.0]
    assert sorted(path.name for path in replay.folder.iterdir() if "000001" in path.name) == []


def test_scored_folders_are_read_in_groups(sampled):
    write_rewards(sampled, {f"clip{number}": [-0.1, float("nan"), -0.3, -0.4, -0.5][number] for number in range(5)})
    scored = ScoredClips([sampled])
    assert scored.reward_GN.shape == (5, 1)
    assert scored.measurable_GN[:, 0].tolist() == [1, 0, 1, 1, 1]
    assert scored.flat(scored.reward_GN).tolist() == pytest.approx([-0.1, 0.0, -0.3, -0.4, -0.5])
    assert scored.batch([3, 0]).captions == ["a blue box slides", "a red ball falls"]


def test_scored_folders_that_cannot_be_used_are_refused(base, sampled, tmp_path):
    (sampled / "rewards.jsonl").write_text('{"name": "clip0", "reward": -1}\n{"reward": 3}\n')
    with pytest.raises(ValueError, match=r"rewards.jsonl, line 2: expected"):
        read_rewards(sampled)
    (sampled / "rewards.jsonl").write_text('{"name": "clip0", "reward": -1}\n')
    with pytest.raises(ValueError, match=r"no score for clip1 \(4 clips\): run `python -m trainers.score_clips"):
        rwr.train(RWRConfig(**base | {"scored": [str(sampled)]}))
    with pytest.raises(ValueError, match="holds no clips: make them"):
        rwr.train(RWRConfig(**base | {"scored": [str(tmp_path / "nowhere")]}))


def test_scored_clips_come_at_the_asked_length_size_and_rate(base, sampled):
    whole = ScoredClips([sampled]).batch([0]).video
    config = RWRConfig(**base | {"scored": [str(sampled)], "num_frames": 5, "height": 64, "width": 32, "fps": 8.0})
    scored = ScoredClips(config.scored, config)
    video = scored.batch([0]).video
    assert scored.size == (5, 64, 32)
    assert (video.frames_BTCHW.shape, video.fps_B.tolist()) == ((1, 5, 3, 64, 32), [8.0])
    same = RWRConfig(**base | {"scored": [str(sampled)], "fps": 8.0})
    assert torch.equal(ScoredClips([sampled], same).batch([0]).video.frames_BTCHW, whole.frames_BTCHW[:, ::2])
    rwr.train(dataclasses.replace(config, max_steps=1))
    for changes, said in (
        ({"num_frames": 17}, "num_frames 17 is more than the 9 frames of clip clip0"),
        ({"num_frames": 9, "fps": 8.0}, "num_frames 9 is more than the 5 frames of clip clip0 .* at 8 frames a second"),
        ({"fps": 24.0}, "fps 24 is above the 16 frames a second of clip clip0"),
        ({"height": 40}, "height must be a multiple of 32"),
    ):
        with pytest.raises(ValueError, match=said):
            rwr.train(RWRConfig(**base | {"scored": [str(sampled)], "dry_run": True, "output_dir": "o"} | changes))


def test_scored_clips_of_several_sizes_are_named_before_the_first_step(base, sampled):
    np.savez_compressed(sampled / "clips" / "clip2.npz", frames=np.zeros((9, 64, 64, 3), np.uint8), fps=16.0)
    with pytest.raises(ValueError, match=r"clip2 .* has 9 frames of 64 x 64 px and clip0 .* 9 frames of 32 x 32 px"):
        rwr.train(RWRConfig(**base | {"scored": [str(sampled)]}))


def test_dry_run_prints_the_plan_and_writes_nothing(base, brightness, capsys):
    config = RWRConfig(**base | ROUND | {"dry_run": True})
    rwr.train(config, recipe=brightness())
    plan = capsys.readouterr().out
    assert "4 clips (2 of each prompt) every 2 steps" in plan
    assert not Path(config.output_dir).exists()


def test_settings_that_cannot_be_meant_are_refused(base):
    with pytest.raises(ValueError, match="top_k must be at most num_generations 2, got 3"):
        RWRConfig(**base | ROUND | {"top_k": 3})
    with pytest.raises(ValueError, match="denoising_sigma_range must be two noise levels"):
        RWRConfig(**base | {"denoising_sigma_range": [0.9, 0.1]})
    with pytest.raises(ValueError, match=r"denoising_sigma_range must lie within adapter_sigma_range \[0.6, 1.0\]"):
        RWRConfig(**base | {"adapter_sigma_range": [0.6, 1.0], "denoising_sigma_range": [0.5, 1.0]})
    with pytest.raises(ValueError, match="weighting signed compares with the policy"):
        RWRConfig(**base | {"weighting": "signed", "replay_rounds": 2})

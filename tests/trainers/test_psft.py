"""PSFT on a toy world: exact resume, full fine-tuning, the physics loss; and clips of true gravity for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from run_reading import lora_of

from data import write
from data.drops.scenes import Scene
from trainers import psft
from trainers.models.ltx import LTXModel
from trainers.settings.regression import PSFTConfig


@pytest.mark.parametrize("full", [False, True])
def test_resume_is_exact(base, tmp_path, full):
    options = base | {"ema_decay": 0.9, "full": full, "learning_rate": 1e-3}
    psft.train(PSFTConfig(**options | {"output_dir": str(tmp_path / "whole")}))
    part = options | {"output_dir": str(tmp_path / "part")}
    psft.train(PSFTConfig(**part | {"max_steps": 2}))
    torch.manual_seed(5)
    psft.train(PSFTConfig(**part | {"resume_from_checkpoint": "auto"}))
    states = [
        torch.load(tmp_path / name / "checkpoint-4" / "training_state.pt", weights_only=True)
        for name in ("whole", "part")
    ]
    for kind in ("weights", "ema"):
        assert states[0][kind].keys() == states[1][kind].keys()
        assert all(torch.equal(states[0][kind][name], states[1][kind][name]) for name in states[0][kind])


def test_full_fine_tuning_leaves_a_pipeline_that_every_trainer_starts_from(base, tmp_path):
    config = PSFTConfig(**base | {"full": True, "learning_rate": 1e-3})
    psft.train(config)
    before, after = (LTXModel.load(path).transformer.state_dict() for path in
                     (base["model_name_or_path"], Path(config.output_dir) / "model"))  # fmt: skip
    assert before.keys() == after.keys()
    assert not torch.equal(before["proj_in.weight"], after["proj_in.weight"])
    assert not (Path(config.output_dir) / "pytorch_lora_weights.safetensors").exists()
    again = PSFTConfig(**base | {"model_name_or_path": f"{config.output_dir}/model", "output_dir": str(tmp_path / "b")})
    psft.train(again)
    assert lora_of(again)


def test_the_denoising_loss_falls_on_the_data(base):
    first = psft.train(PSFTConfig(**base | {"max_steps": 1, "full": True}))["denoising_loss"]
    base["overwrite_output_dir"] = True
    config = PSFTConfig(**base | {"max_steps": 30, "full": True, "learning_rate": 3e-3, "save_steps": 0})
    assert psft.train(config)["denoising_loss"] < 0.9 * first


def test_the_physics_loss_has_a_gradient_of_its_own(base, brightness, tmp_path):
    norms = {}
    for weight in (0.0, 50.0):
        config = PSFTConfig(
            **base | {"max_steps": 1, "physics_weight": weight, "output_dir": str(tmp_path / str(weight))}
        )
        metrics = psft.train(config, recipe=brightness())
        norms[weight] = metrics["grad_norm"]
    assert norms[50.0] != norms[0.0]
    assert metrics["pixel_grad_norm"] > 0


def test_a_reward_without_gradient_is_refused_for_the_physics_loss(base, brightness):
    with pytest.raises(ValueError, match="no gradient at the pixels"):
        psft.train(
            PSFTConfig(**base | {"physics_weight": 1.0}), recipe=brightness(lambda reward_B, _: reward_B.detach())
        )


def test_the_plan_says_what_the_clips_fall_at(base, capsys):
    psft.train(PSFTConfig(**base | {"dry_run": True}))
    assert "train: g 9.81 m/s^2, from 9.81 to 9.81" in capsys.readouterr().out


def test_settings_that_cannot_be_meant_are_refused(base):
    with pytest.raises(ValueError, match="set bf16 false"):
        PSFTConfig(**base | {"full": True, "bf16": True})
    with pytest.raises(ValueError, match="either full or lora_path"):
        PSFTConfig(**base | {"full": True, "lora_path": "x"})


def test_clips_of_true_gravity_are_the_same_scenes_and_fall_at_it(monkeypatch):
    monkeypatch.setattr(
        "data.drops.simulation.render", lambda scene, motion: np.zeros((scene.frames, 32, 32, 3), np.uint8)
    )
    slow, true = (write.clip(("train", 3, 17, 32, g)) for g in (None, 9.81))
    scenes = [Scene.from_json(row["scene"]) for row in (slow, true)]
    assert scenes[0].with_gravity(9.81) == scenes[1]
    assert scenes[0].g_m_s2 != 9.81
    assert (true["split"], true["id"]) == ("train-g9.81", f"train-g9.81-{scenes[0].seed}")
    assert true["g_m_s2"] == 9.81
    assert true["at_rest"]
    time_s = np.arange(17) / scenes[1].fps
    flying = time_s < true["impact_times_s"][0]
    fallen_m = true["poses"][0, 0, 2] - true["poses"][flying, 0, 2]
    assert fallen_m == pytest.approx(0.5 * 9.81 * time_s[flying] ** 2, abs=0.01)


def test_prompts_alone_cannot_be_learned_from(base, tmp_path):
    (tmp_path / "p.txt").write_text("a ball is thrown\n")
    size = {"num_frames": 9, "height": 32, "width": 32, "fps": 8.0, "image_conditioning": False}
    with pytest.raises(ValueError, match=r"learns from clips, and .*p\.txt holds prompts alone"):
        psft.train(PSFTConfig(**base | size | {"dataset": str(tmp_path / "p.txt"), "dry_run": True}))

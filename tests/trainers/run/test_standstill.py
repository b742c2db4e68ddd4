"""A run that learns nothing says so at once, and a long row of such steps ends it."""

import pytest
from run_reading import lora_of

from trainers import oro, psft, rwr
from trainers.run.standstill import Standstill, why_reward_is_silent
from trainers.settings.regression import PSFTConfig, RWRConfig

ROUND = {"num_generations": 2, "prompts_per_round": 2, "inner_steps": 1, "sampling_batch_size": 4}


class Printer:
    """Keeps what an accelerator prints."""

    def __init__(self):
        self.lines = []

    def print(self, line):
        self.lines.append(line)


def constant(reward_B, frames_BTCHW):
    return reward_B * 0 - 0.37


def test_the_first_of_a_row_is_said_and_a_long_row_ends():
    still, printer = Standstill(unit="round"), Printer()
    for number, why in enumerate(["flat", "flat", None, "flat", "flat", "flat"]):
        still.note(printer, why, number, 3)
    assert printer.lines == [f"warning: round {number} teaches nothing: flat" for number in (0, 3)]
    with pytest.raises(ValueError, match="nothing was learned in 4 rounds in a row, the last of them 6: flat"):
        still.note(printer, "flat", 6, 3)


def test_it_is_said_why_the_reward_is_silent():
    zero = {"pixel_grad_norm_max": 0.0, "measurable": 1.0, "dropped_gradients": 0.0}
    assert why_reward_is_silent(zero | {"pixel_grad_norm_max": 0.1}, given_first=True) is None
    assert "first frame is given" in why_reward_is_silent(zero, given_first=True)
    assert "no clip could be measured" in why_reward_is_silent(zero | {"measurable": 0.0}, given_first=False)
    assert "finite on no clip" in why_reward_is_silent(zero | {"dropped_gradients": 2.0}, given_first=False)


def first_frame(reward_B, frames_BTCHW):
    return frames_BTCHW[:, 0].mean((1, 2, 3))


@pytest.mark.parametrize("change", [constant, first_frame])
def test_oro_stops_at_a_reward_without_gradient(toy_config, brightness, change):
    config = toy_config(denoising_weight=1.0)
    with pytest.raises(
        ValueError, match=r"nothing can be learned: the reward's gradient .* is exactly 0 on every clip"
    ):
        oro.train(config, recipe=brightness(change))


def test_oro_bears_some_steps_whose_clips_nobody_could_measure(toy_config, brightness, capsys):
    with pytest.raises(ValueError, match="nothing was learned in 3 steps in a row, the last of them 3: no clip could"):
        oro.train(toy_config(max_steps=5, max_skipped_steps=2), recipe=brightness(blind=[0, 1]))
    assert capsys.readouterr().out.count("warning: step 1 teaches nothing: no clip could be measured") == 1


def test_oro_refuses_an_adapter_that_is_off_in_the_whole_rollout(toy_config, brightness):
    for changes in ({"dry_run": True}, {}):
        with pytest.raises(ValueError, match="holds none of the rollout's noise levels"):
            oro.train(toy_config(adapter_sigma_range=[0.0, 0.01], **changes), recipe=brightness())


def test_the_controls_end_with_a_word(toy_config, brightness, capsys):
    oro.train(toy_config(reward_weight=0.0, reference_weight=10.0), recipe=brightness())
    said = capsys.readouterr().out
    assert "warning: step 1 teaches nothing: its gradient is exactly 0" in said
    assert "warning: no step of this run had a gradient" in said


@pytest.mark.parametrize("weighting", ["reward", "signed"])
def test_rwr_stops_after_rounds_in_which_nothing_differs(base, brightness, capsys, weighting):
    config = RWRConfig(**base | ROUND | {"weighting": weighting, "max_steps": 6, "max_skipped_steps": 1})
    with pytest.raises(ValueError, match="nothing was learned in 2 rounds in a row, the last of them 1: all samples"):
        rwr.train(config, recipe=brightness(constant))
    assert "warning: round 0 teaches nothing: all samples of a prompt have the same reward" in capsys.readouterr().out


def test_psft_stops_where_the_physics_loss_is_silent(base, brightness):
    config = PSFTConfig(**base | {"physics_weight": 1.0, "max_skipped_steps": 1})
    with pytest.raises(ValueError, match=r"nothing was learned in 2 steps in a row, .* exactly 0 on every clip"):
        psft.train(config, recipe=brightness(constant))


def test_layers_that_are_not_there_get_no_lora(toy_config, brightness):
    with pytest.raises(ValueError, match="lora_target_modules to_qq name no layer of this model"):
        oro.train(toy_config(lora_target_modules=["to_q", "to_qq"]), recipe=brightness())
    config = toy_config(lora_target_modules=["to_q"], reference_weight=0.0)
    oro.train(config, recipe=brightness())
    assert all("to_q" in name for name in lora_of(config))

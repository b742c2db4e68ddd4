"""What goes wrong while a run goes on: it says so, loses nothing, and goes on where it was."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from run_reading import lora_of

from trainers import oro
from trainers.oro import train
from trainers.run import session
from trainers.run.checkpoint import checkpoints
from trainers.run.faults import STOPPED, StopSignal
from trainers.run.finish import write_whole
from trainers.settings.options import exit_with_one_line


class Then:
    """A judge that does something before its n-th judgement (the first is the check before the run)."""

    def __init__(self, judge, number, act):
        self.inner, self.number, self.act, self.count = judge, number, act, 0

    def score(self, video, columns, grad):
        self.count += 1
        if self.count == self.number:
            self.act()
        return self.inner.score(video, columns, grad)


def test_told_to_stop_a_run_finishes_its_step_saves_and_goes_on_later(toy_config, brightness, tmp_path, capsys):
    whole = toy_config(max_steps=3, output_dir=str(tmp_path / "whole"), learning_rate=1e-2)
    train(whole, recipe=brightness())
    config = toy_config(max_steps=3, save_steps=0, learning_rate=1e-2)
    before = signal.getsignal(signal.SIGTERM)
    told = Then(brightness(), 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stopped:
        train(config, recipe=told)
    signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == STOPPED == 143
    assert "stopped by SIGTERM after step 2" in capsys.readouterr().out
    assert [path.name for path in checkpoints(config.output_dir)] == ["checkpoint-2"]
    resumed = toy_config(max_steps=3, save_steps=0, learning_rate=1e-2, resume_from_checkpoint="auto")
    train(resumed, recipe=brightness())
    expected, actual = lora_of(whole), lora_of(resumed)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_save_and_stop(toy_config, brightness, capsys, number):
    config, before = toy_config(max_steps=3, save_steps=0), signal.getsignal(number)
    told = Then(brightness(), 3, lambda: [os.kill(os.getpid(), number) for _ in range(2)])
    with pytest.raises(SystemExit) as stopped:
        train(config, recipe=told)
    assert stopped.value.code == 128 + number
    assert f"stopped by {signal.Signals(number).name} after step 2" in capsys.readouterr().out
    assert [path.name for path in checkpoints(config.output_dir)] == ["checkpoint-2"]
    assert signal.getsignal(number) == before


def test_a_stop_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopSignal()
    stop.listen()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    stop.forget()
    signal.signal(signal.SIGHUP, before)


def poison(monkeypatch, steps):
    """Gradients that are not finite at these steps, counted from 1."""
    honest, count = session.reduce_and_clip, iter(range(1, 100))

    def reduce(accelerator, weights, max_grad_norm):
        if next(count) in steps:
            for weight in weights:
                weight.grad = torch.full_like(weight, float("nan"))
        return honest(accelerator, weights, max_grad_norm)

    monkeypatch.setattr(session, "reduce_and_clip", reduce)


def test_a_step_without_a_finite_gradient_changes_nothing_and_is_counted(toy_config, brightness, monkeypatch):
    poison(monkeypatch, {1, 2})
    config = toy_config(max_steps=2, max_skipped_steps=2)
    metrics = train(config, recipe=brightness())
    assert metrics["skipped"] == 1.0
    assert "grad_norm" not in metrics
    assert all((weight == 0).all() for name, weight in lora_of(config).items() if "lora_B" in name)


def test_too_many_such_steps_in_a_row_stop_the_run(toy_config, brightness, monkeypatch):
    poison(monkeypatch, {1, 3, 4})
    with pytest.raises(ValueError, match="not finite in 2 steps in a row, the last of them 4: lower learning_rate"):
        train(toy_config(max_steps=6, max_skipped_steps=1), recipe=brightness())


def test_a_full_disk_leaves_the_older_checkpoint_whole(toy_config, brightness, monkeypatch):
    honest = torch.save

    def save(body, path, *arguments, **named):
        if "checkpoint-2" in str(path) and "training_state" in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return honest(body, path, *arguments, **named)

    monkeypatch.setattr(torch, "save", save)
    config = toy_config(max_steps=3, save_steps=1)
    with pytest.raises(ValueError, match=r"step 2 cannot be written .* No space left .* resume from checkpoint-1"):
        train(config, recipe=brightness())
    monkeypatch.setattr(torch, "save", honest)
    train(toy_config(max_steps=3, save_steps=1, resume_from_checkpoint="auto"), recipe=brightness())
    assert [path.name for path in checkpoints(config.output_dir)] == ["checkpoint-2", "checkpoint-3"]
    assert not list(Path(config.output_dir).glob(".writing-*"))


def test_a_reward_that_hangs_ends_its_process_with_a_message():
    program = (
        "import time\nfrom trainers.run.faults import watchdog\n"
        "with watchdog(0.0, 'nothing'):\n    time.sleep(0.1)\n"
        "with watchdog(0.3, 'the reward', process=1):\n    time.sleep(60)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert time.monotonic() - started < 40
    assert done.returncode == 3
    assert "error: the reward took longer than 0.3 s on process 1: mend it, or raise reward_timeout_s" in done.stderr


def test_a_reward_s_error_names_the_process_and_the_clips(toy_config, brightness):
    def broken():
        raise ValueError("the reward's server is gone")

    with pytest.raises(ValueError, match=r"the reward's server is gone \(process 0, clips train-\d, train-\d\)"):
        train(toy_config(), recipe=Then(brightness(), 2, broken))


def test_a_loss_that_is_not_finite_names_its_clips_and_changes_nothing(toy_config, brightness, monkeypatch, capsys):
    monkeypatch.setattr(oro, "denoising_loss", lambda *_, **__: torch.tensor(float("nan"), requires_grad=True))
    config = toy_config(max_steps=1, denoising_weight=0.1)
    assert train(config, recipe=brightness())["skipped"] == 1.0
    captured = capsys.readouterr()
    assert "warning: the loss of train-" in captured.err
    assert "warning: step 1 has no finite gradient and changes nothing" in captured.out
    assert all((weight == 0).all() for name, weight in lora_of(config).items() if "lora_B" in name)


def test_a_run_says_itself_that_its_reward_rises_while_the_held_out_one_falls(toy_config, brightness, capsys):
    class Parting:
        """Rises with every judgement of training; held out it rises once and falls. A check comes first."""

        trained, held_out = 0, iter([-0.5, -0.5, -0.1, -0.4, -0.6])

        def score(self, video, columns, grad):
            found = brightness().score(video, columns, grad)
            if grad:
                self.trained += 1
                found.total_B = found.total_B * 1e-3 + 0.1 * self.trained
            else:
                found.total_B = torch.full_like(found.total_B, next(self.held_out))
            return found

    train(toy_config(max_steps=3, eval_steps=1, eval_scenes=2), recipe=Parting())
    assert "alarm: reward rises while eval/reward falls: -0.1 at step 1, -0.6 at step 3" in capsys.readouterr().err


def test_out_of_memory_says_what_to_lower(capsys):
    def main():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    with pytest.raises(SystemExit):
        exit_with_one_line(main)
    assert "out of memory: CUDA out of memory. Tried to allocate 20 GiB: lower per_device" in capsys.readouterr().err


def test_every_phase_of_a_step_is_timed(toy_config, brightness):
    metrics = train(toy_config(denoising_weight=0.1), recipe=brightness())
    parts = {name for name in metrics if name.startswith("seconds/")}
    assert parts == {f"seconds/{name}" for name in ("sample", "decode", "reward", "regularisers", "backward", "wait")}
    assert sum(metrics[name] for name in parts) <= metrics["seconds"]
    assert 0.05 < metrics["memory_gb"] < 100


def test_a_run_that_goes_on_from_an_older_checkpoint_leaves_the_later_ones(toy_config, brightness, capsys):
    train(toy_config(max_steps=3, save_steps=1, save_total_limit=3), recipe=brightness())
    folder = Path(toy_config().output_dir)
    resumed = toy_config(max_steps=2, save_steps=1, resume_from_checkpoint=str(folder / "checkpoint-1"))
    train(resumed, recipe=brightness())
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-1", "checkpoint-2"]
    assert (folder / "abandoned-checkpoint-3").is_dir()
    assert "abandoned-checkpoint-3" in capsys.readouterr().out


def test_a_folder_of_another_run_is_not_written_to_on_resume(toy_config, brightness, tmp_path):
    train(toy_config(max_steps=1, save_steps=1), recipe=brightness())
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text("{}")
    checkpoint = Path(toy_config().output_dir) / "checkpoint-1"
    with pytest.raises(ValueError, match="other"):
        train(
            toy_config(max_steps=2, output_dir=str(other), resume_from_checkpoint=str(checkpoint)),
            recipe=brightness(),
        )


def test_a_final_lora_that_cannot_be_written_leaves_the_old_one(tmp_path):
    class Broken:
        def save_lora(self, folder):
            (folder / "pytorch_lora_weights.safetensors").write_text("half")
            raise OSError("no space left")

    (tmp_path / "pytorch_lora_weights.safetensors").write_text("old")
    with pytest.raises(OSError, match="no space"):
        write_whole(Broken(), tmp_path, full=False)
    assert (tmp_path / "pytorch_lora_weights.safetensors").read_text() == "old"

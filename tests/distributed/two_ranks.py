"""Trains a toy by ORO in one of several processes: two_ranks.py MODEL CLIPS OUTPUT BATCH STEPS ACCUMULATION BF16.

FAULT=raise, hang or term makes the reward of process 1 do so at its third judgement, step 2.
"""

import json
import os
import signal
import sys
import time
import types
from pathlib import Path

import torch

from trainers import oro
from trainers.config import OROConfig, exit_with_one_line
from trainers.models import load_video_model, lora_parameters


class Brightness:
    """Mean colour of the clip."""

    judged = 0

    def judge(self, video, columns, grad):
        self.judged += 1
        if self.judged == 3 and os.environ.get("RANK") == "1":
            misbehave(os.environ.get("FAULT"))
        with torch.set_grad_enabled(grad):
            total_B = video.frames_BTCHW.mean(dim=(1, 2, 3, 4))
        ones_B = torch.ones(video.batch_size)
        return types.SimpleNamespace(
            total_B=total_B, terms={}, measurable_B=ones_B, reasons=[None] * len(ones_B), observation=None
        )


def misbehave(fault):
    if fault:
        print("FAULT", flush=True)
    if fault == "raise":
        raise ValueError("the reward's server is gone")
    if fault == "hang":
        time.sleep(600)
    if fault == "term":
        os.kill(os.getpid(), signal.SIGTERM)


def main(
    model: str, clips: str, output: str, batch_size: str, steps: str = "2", accumulation: str = "1", bf16: str = "0"
) -> None:
    config = OROConfig(
        model_name_or_path=model,
        dataset=clips,
        output_dir=output,
        num_inference_steps=3,
        per_device_train_batch_size=int(batch_size),
        lora_r=4,
        gradient_accumulation_steps=int(accumulation),
        max_steps=int(steps),
        learning_rate=1e-2,
        reference_weight=0.1,
        ema_decay=0.5,
        reward_timeout_s=5.0,
        save_steps=1,
        eval_steps=2,
        eval_scenes=1,
        eval_split="train",
        resume_from_checkpoint="auto",
        report_to=["none"],
        disable_tqdm=True,
    )
    adapter = load_video_model(model, torch_dtype=torch.bfloat16 if int(bf16) else torch.float32)
    metrics = oro.train(config, recipe=Brightness(), model=adapter)
    parameters = lora_parameters(adapter.transformer)
    if any(hasattr(weight, "ds_id") for weight in parameters.values()):  # ZeRO-3: nobody holds them whole any more
        saved = torch.load(Path(output) / f"checkpoint-{steps}" / "training_state.pt", weights_only=True)["weights"]
        parameters = {name: saved[name] for name in parameters}
    weights = torch.cat([weight.detach().flatten() for weight in parameters.values()])
    result = {"count": len(weights), "weights": weights[:: max(1, len(weights) // 50)].tolist()}
    base = next(weight for name, weight in adapter.transformer.named_parameters() if "lora_" not in name)
    result["dtypes"] = [str(weights.dtype), str(base.dtype)]
    result |= {name: metrics[name] for name in ("grad_norm", "reward") if name in metrics}
    print(f"RESULT{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    exit_with_one_line(lambda: main(*sys.argv[1:]))

"""Trains a toy by RWR in one of several processes: rwr_ranks.py MODEL CLIPS OUTPUT BATCH.

The six samples of a round are one prompt's group, which two processes share; the reward has no gradient.
"""

import json
import os
import sys
import types

import torch

from trainers import rwr
from trainers.models import load_video_model, lora_parameters
from trainers.regression_config import RWRConfig


class Counting:
    """How many pixels are bright; not differentiable."""

    def judge(self, video, columns, grad):
        assert not grad
        total_B = -(video.frames_BTCHW > 0.5).float().mean(dim=(1, 2, 3, 4))
        ones_B = torch.ones(video.batch_size)
        return types.SimpleNamespace(
            total_B=total_B,
            terms={"bright": total_B},
            measurable_B=ones_B,
            reasons=[None] * len(ones_B),
            observation=None,
        )


def main(model: str, clips: str, output: str, batch_size: str) -> None:
    config = RWRConfig(
        model_name_or_path=model,
        dataset=clips,
        output_dir=output,
        num_inference_steps=3,
        per_device_train_batch_size=int(batch_size),
        lora_r=4,
        num_generations=6,
        prompts_per_round=1,
        inner_steps=2,
        target_ess=0.5,
        reference_weight=0.1,
        max_steps=3,
        learning_rate=1e-2,
        report_to=["none"],
        disable_tqdm=True,
    )
    adapter = load_video_model(model)
    metrics = rwr.train(config, recipe=Counting(), model=adapter)
    weights = torch.cat([weight.detach().flatten() for weight in lora_parameters(adapter.transformer).values()])
    result = {
        "rank": int(os.environ.get("RANK", 0)),
        "weights": [weights.sum().item(), weights.abs().sum().item(), weights.square().sum().item()],
        "grad_norm": metrics["grad_norm"],
        **{name: metrics[name] for name in ("reward", "ess", "temperature", "absolute_weight")},
    }
    print(f"RESULT{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Trains a toy by ORO in one of several processes: two_ranks.py MODEL CLIPS OUTPUT BATCH_SIZE."""

import json
import sys
import types

import torch

from trainers import oro
from trainers.config import OROConfig
from trainers.models import load_video_model, lora_parameters


class Brightness:
    """Mean colour of the clip."""

    def judge(self, video, columns, grad):
        with torch.set_grad_enabled(grad):
            total_B = video.frames_BTCHW.mean(dim=(1, 2, 3, 4))
        ones_B = torch.ones(video.batch_size)
        return types.SimpleNamespace(
            total_B=total_B, terms={}, measurable_B=ones_B, reasons=[None] * len(ones_B), observation=None
        )


def main(model: str, clips: str, output: str, batch_size: str) -> None:
    config = OROConfig(
        model_name_or_path=model,
        dataset=clips,
        output_dir=output,
        num_inference_steps=3,
        per_device_train_batch_size=int(batch_size),
        lora_r=4,
        max_steps=2,
        learning_rate=1e-2,
        reference_weight=0.1,
        report_to=["none"],
        disable_tqdm=True,
    )
    adapter = load_video_model(model)
    metrics = oro.train(config, recipe=Brightness(), model=adapter)
    weights = torch.cat([weight.detach().flatten() for weight in lora_parameters(adapter.transformer).values()])
    spread = 0.0
    if torch.distributed.is_initialized():
        other = [torch.empty_like(weights) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(other, weights)
        spread = max((one - weights).abs().max().item() for one in other)
    result = {"spread": spread, "grad_norm": metrics["grad_norm"], "reward": metrics["reward"]}
    print(f"RESULT{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

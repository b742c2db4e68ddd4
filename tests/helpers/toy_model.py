"""A video model whose optimum is known: a clip is one number, its brightness, and the flow is in closed form.

For data x_0 ~ N(m, s^2) and noise n ~ N(0, 1) the best velocity at x = (1 - sigma) x_0 + sigma n is

    v = -m + (sigma - (1 - sigma) s^2) / ((1 - sigma)^2 s^2 + sigma^2) (x - (1 - sigma) m)

m = base + adapter is all that is learned; a sampler with many small steps draws from N(m, s^2).
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from trainers.models.base import Condition, Schedule

SPREAD = 0.1


class ToyNetwork(nn.Module):
    """m = mean + scale * lora_mean."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean), requires_grad=False)


class ToyModel:
    """The adapter of `trainers.models.base.VideoModel` over the toy network."""

    lora_targets = ("mean",)
    pipeline = vae = None

    def __init__(self, mean: float = 0.2) -> None:
        self.transformer = self.denoiser = ToyNetwork(mean)
        self.networks = {"pytorch_lora_weights.safetensors": self.transformer}

    @property
    def device(self):
        return torch.device("cpu")

    def decode_in_tiles(self, side_px):
        assert side_px == 0

    @property
    def learned_mean(self) -> float:
        return float(self.transformer.mean + self.transformer.lora_mean.detach())

    def to(self, device):
        return self

    def check_size(self, num_frames, height_px, width_px):
        pass

    def encode_clip(self, frames_BTCHW, generators=None):
        return frames_BTCHW.mean(dim=(1, 2, 3, 4))[:, None]

    def condition(self, prompts, *, fps, num_frames, height_px, width_px, **_):
        blank = torch.zeros(len(prompts), 1)
        return Condition(
            num_frames=num_frames, height_px=height_px, width_px=width_px,
            fps_B=fps, prompt_BLD=blank[..., None], prompt_mask_BL=blank,
        )  # fmt: skip

    def initial_latents(self, condition, generators):
        return torch.stack([torch.randn(1, generator=generator) for generator in generators])

    def schedule(self, num_steps, condition):
        sigmas = torch.linspace(1, 0, num_steps + 1)
        return Schedule(sigmas=sigmas, timesteps_S=sigmas[:-1] * 1000)

    def predict(self, latents, sigma_B, condition, *, adapter_scale=1.0):
        mean = self.transformer.mean + adapter_scale * self.transformer.lora_mean
        sigma, rest = sigma_B[:, None], 1 - sigma_B[:, None]
        slope = (sigma - rest * SPREAD**2) / (rest**2 * SPREAD**2 + sigma**2)
        return slope * (latents - rest * mean) - mean

    def step(self, latents, prediction, schedule, index, condition):
        return latents + (schedule.sigmas[index + 1] - schedule.sigmas[index]) * prediction

    def predicted_clean(self, latents, prediction, sigma_B):
        return latents - sigma_B[:, None] * prediction

    def add_noise(self, clean, noise, sigma_B):
        return (1 - sigma_B[:, None]) * clean + sigma_B[:, None] * noise

    def training_target(self, clean, noise):
        return noise - clean

    def pin(self, latents, condition):
        return latents

    def free_mask(self, condition):
        return torch.ones(1, 1)

    def decode(self, latents, condition, *, checkpointing=False):
        size = (condition.num_frames, 3, condition.height_px, condition.width_px)
        return latents[:, :, None, None, None].expand(-1, *size)

    def add_lora(self, **_):
        self.transformer.lora_mean = nn.Parameter(torch.zeros(()))

    def save_lora(self, folder):
        save_file(
            {"mean": self.transformer.lora_mean.detach()[None]}, Path(folder) / "pytorch_lora_weights.safetensors"
        )

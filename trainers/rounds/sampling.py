"""A round's clips: sampled, scored, weighted, and put into the replay.

Axes: M clips of all processes, G groups (prompts), N samples of a prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from trainers.learning.advantages import reward_weights, weight_metrics, why_nothing_differs
from trainers.learning.batches import BatchSource, Scenes
from trainers.learning.clocks import Phases
from trainers.learning.figures import Processes, of_all, reward_metrics
from trainers.learning.rollout import rollout
from trainers.learning.scoring import Scored, Scorer, joined, priced_together, score, some_clips
from trainers.learning.streams import Stream, clip_generators
from trainers.models import VideoModel
from trainers.rounds.pool import picked, prompts_of
from trainers.rounds.replay import Clip, Replay, shard_name
from trainers.run.parallel import gathered, wait_for_all
from trainers.run.session import Session
from trainers.settings.regression import RWRConfig


def sample_round(
    config: RWRConfig, recipe: Scorer, session: Session, scenes: Scenes, replay: Replay
) -> dict[str, float]:
    """Sample, score and weight one round's clips into the replay; its figures over all processes.

    Sample i of the round's prompt g is clip number (round * prompts + g) * N + i: its scene and noise depend on
    nothing else. Each process makes an equal share of them, in order.
    """
    accelerator, samples = session.accelerator, config.num_generations
    processes = Processes.of(accelerator)
    index, count = session.state.step // config.inner_steps, config.prompts_per_round * samples
    share = count // accelerator.num_processes
    first = index * count + accelerator.process_index * share
    numbers = list(range(first, first + share))
    latents, parts, quiet = [], [], config.disable_tqdm or not session.is_main
    with tqdm(total=share, desc=f"round {index}: sample and score", unit="clip", leave=False, disable=quiet) as bar:
        for start_at in range(0, share, config.sampling_batch_size):
            batch = numbers[start_at : start_at + config.sampling_batch_size]
            made, scored = sample_and_score(config, recipe, session.model, scenes, batch, session.phases)
            latents.extend(made)
            parts.append(scored)
            bar.update(len(batch))
    scored = joined(parts)
    replay.write_latents(index, accelerator.process_index, numbers, latents)
    if config.weighting == "signed":
        with gathered(session.state.weights.values()):
            if session.is_main:
                replay.write_policy(index, session.state.weights)
    with session.phases("wait"):
        wait_for_all(accelerator)
        everyone = priced_in_groups(recipe, of_all(processes, scored), samples)
        reward_M, measurable_M = everyone.reward_B.cpu(), everyone.measurable_B.cpu()
        figures = reward_metrics(Processes(), everyone)
    reward_GN, measurable_GN = reward_M.view(-1, samples), measurable_M.view(-1, samples)
    weights = reward_weights(reward_GN, measurable_GN, config.how)
    if config.weighting != "uniform":
        why = why_nothing_differs(reward_GN, measurable_GN, weights, config.how)
        session.learning.rounds.note(accelerator, why, index, config.max_skipped_steps)
    wait_for_all(accelerator)
    if session.is_main:
        weight_M = weights.weight_GN.flatten()
        everything = zip(reward_M.tolist(), weight_M.tolist(), strict=True)
        clips = [
            Clip(number=index * count + i, reward=reward, weight=weight, file=shard_name(index, i // share))
            for i, (reward, weight) in enumerate(everything)
        ]
        replay.finish_round(index, clips)
    wait_for_all(accelerator)
    session.state.clips = (index + 1) * count
    return figures | weight_metrics(reward_GN, measurable_GN, weights)


def priced_in_groups(recipe: Scorer, scored_M: Scored, samples: int) -> Scored:
    """Each prompt's samples priced and scaled among themselves, as if the recipe had been shown the group alone."""
    starts = range(0, len(scored_M.reasons), samples)
    return joined([priced_together(recipe, some_clips(scored_M, slice(start, start + samples))) for start in starts])


@torch.no_grad()
def sample_and_score(
    config: RWRConfig, recipe: Scorer, model: VideoModel, scenes: BatchSource, numbers: list[int], phase: Phases
) -> tuple[Tensor, Scored]:
    """Clean latents and scores of some clips."""
    batch, condition, of = prompts_of(config, model, scenes, numbers)
    condition = condition[of]
    schedule = model.schedule(config.num_inference_steps, condition)
    noise = model.initial_latents(condition, clip_generators(config.seed, numbers, Stream.NOISE))
    clean = rollout(model, condition, schedule, noise, adapter_sigma_range=config.adapter_sigma_range).latents
    with phase("decode"):
        frames = model.decode(clean, condition).clamp(0, 1)
    with phase("reward"):
        video = picked(batch.video.to(frames.device), of).with_frames(frames)
        scored, _ = score(recipe, video, picked(batch.columns, of))
    return clean, scored

"""RWR: teach a video model physics by regressing on its own samples, weighted by any reward, differentiable or not.

    accelerate launch trainers/rwr.py --config configs/rwr_drops.yaml

One round, for prompts c_g and clean latents x_gi = rollout(noise_gi, c_g; LoRA), i = 1..N:

    w_gi = N softmax_i(reward(x_gi) / temperature) a_g      after gathering over the processes, see `reward_weights`
    inner steps: loss = mean_b w_b |v(x_sigma, c) - target|^2 + beta |v_on - v_off|^2, AdamW

With `weighting: signed` bad samples teach as well: w_gi in [-1, 1] is a sample's rank within its group, and the
loss is `trainers.learning.losses.contrast_loss` against the policy that made the round. Offline (`scored`) the weighted
regression runs on folders of clips that are scored already.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rewards.recipe.recipe import load_recipe
from trainers.clips.scored import ScoredClips
from trainers.learning.batches import Scenes, condition_on, lasting
from trainers.learning.clocks import Phases
from trainers.learning.figures import Processes
from trainers.learning.levels import about_experts, check_adapter_acts, experts_left_out
from trainers.learning.losses import contrast_loss, denoising_loss, noised, reference_distance, told
from trainers.learning.scoring import Scorer, score, warn_unmeasured
from trainers.learning.streams import Stream, clip_generators, shuffled
from trainers.memory_plan.blank import FEW, Blank, Step
from trainers.models import Condition, VideoModel
from trainers.rounds.pool import Pool, offline_pool, online_pool, prompts_of
from trainers.rounds.replay import Replay
from trainers.rounds.sampling import sample_and_score, sample_round
from trainers.run import averages
from trainers.run.build import held_out_judges, make_session, start, watched
from trainers.run.faults import warn, warn_not_finite
from trainers.run.finish import plan_sigmas, print_outline
from trainers.run.folder import check_disk
from trainers.run.processes.parallel import wait_for_all
from trainers.run.session import Session
from trainers.run.tracking import mean_of
from trainers.settings.options import exit_with_one_line, parse_config, shared_levels
from trainers.settings.regression import RWRConfig


def train(config: RWRConfig, *, recipe: Scorer | None = None, model: VideoModel | None = None) -> dict[str, float]:
    """Run the whole training; `recipe` and `model` replace those that the config names.

    Raises:
        ValueError: anything that a user can mend, before the first step where it can be known.
    """
    if config.context_parallel_size > 1:
        raise ValueError("context_parallel_size must be 1 for RWR, whose processes have samples of their own")
    scored = ScoredClips(config.scored, config) if config.scored else None
    accelerator, resume = start(config if scored is None else sized(config, scored), STEP)
    processes = Processes.of(accelerator)
    recipe = recipe or (load_recipe(config.recipe) if scored is None or config.eval_steps else None)
    scenes = Scenes(config, config.split, seed=config.seed) if scored is None else None
    recipe = recipe and watched(config, accelerator, recipe)
    session = make_session(config, accelerator, held_out_judges(config, recipe), scenes, model, recipe=config.recipe)
    model, state = session.model, session.state
    source = checked_source(config, recipe, session, scenes, scored)
    check_disk(config.output_dir, session.disk_bytes())
    size, accumulation = config.per_device_train_batch_size, config.gradient_accumulation_steps
    per_step = size * accumulation * accelerator.num_processes
    if session.is_main:
        print_outline(config, model, source, state.weights, per_step, resume, outline(config, source))
    if config.dry_run:
        return {}
    replay = Replay(config.output_dir, rounds=config.replay_rounds)
    if scored is None:
        session.keep = lambda folder: replay.keep(folder) if session.is_main else None
    metrics, pool = session.open(resume, title="RWR"), None
    if resume is not None and session.is_main and scored is None:
        replay.restore(resume)
    wait_for_all(accelerator)

    while state.step < config.max_steps:
        started, records = time.perf_counter(), []
        pool, of_round = pool_of_step(config, recipe, session, source, replay, pool)
        for micro in range(accumulation):
            first = state.step * per_step + (micro * accelerator.num_processes + processes.index) * size
            numbers = list(range(first, first + size))
            with session.phases("denoising"):
                loss, figures = rwr_loss(
                    config, model, state.weights, pool, numbers, per_step, processes, session.phases
                )
            records.append(figures)
            session.backward(loss, micro)
        metrics = of_round | mean_of(records) | session.update()
        shown = {name: f"{metrics[name]:.3f}" for name in ("reward", "denoising_loss") if name in metrics}
        metrics = session.after_step(metrics, started, shown)
    session.close(metrics, method="RWR, regression on clips weighted by their reward")
    return metrics


def sized(config: RWRConfig, scored: ScoredClips) -> RWRConfig:
    """The settings with the size of the scored clips, for the plan of memory."""
    num_frames, height, width = scored.size
    return dataclasses.replace(config, num_frames=num_frames, height=height, width=width)


def pool_of_step(
    config: RWRConfig,
    recipe: Scorer | None,
    session: Session,
    source: Scenes | ScoredClips,
    replay: Replay,
    pool: Pool | None,
) -> tuple[Pool, dict[str, float]]:
    """The clips that this step learns from, and the figures of a round that begins with it.

    Args:
        pool: of the step before; None at the first of a run.
    """
    if isinstance(source, ScoredClips):
        return offline_pool(config, session, source) if pool is None else (pool, {})
    figures: dict[str, float] = {}
    if session.state.step % config.inner_steps == 0:
        assert recipe is not None
        with session.phases("sample"):
            figures = sample_round(config, recipe, session, source, replay)
        if session.trackers is not None and (first := session.state.step + 1) % config.logging_steps:
            session.trackers.metrics(figures, first)  # else they are logged with the step
        pool = None
    return pool or online_pool(config, session, source, replay), figures


def rwr_loss(
    config: RWRConfig,
    model: VideoModel,
    weights: dict[str, nn.Parameter],
    pool: Pool,
    numbers: list[int],
    per_step: int,
    processes: Processes,
    phase: Phases,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one micro-batch and its figures.

    Clips of weight 0 are not drawn; the others count as if they had been.

    Args:
        weights: those that are trained, by name.
        numbers: of the clips drawn since the run began, over all processes: they decide which and their noise.
        per_step: clips of an optimizer step.
    """
    places, share = drawn_from(pool, config, numbers, per_step)
    with phase.part("encode"):
        clean, condition = pool.fetch(places, numbers)
    condition = told(condition)
    weight_B = None if config.weighting == "uniform" else pool.weight_M[places] * share
    fresh = clip_generators(config.seed, numbers, Stream.DATA_NOISE)
    levels, metrics = config.denoising_sigma_range, {}
    if config.weighting == "signed":
        assert weight_B is not None
        options = {"sigma_range": levels, "generators": fresh, "beta": config.signed_beta}
        policy = under_policy(weights, pool, phase)
        loss, moved = contrast_loss(model, clean, condition, advantage_B=weight_B, policy=policy, **options)
        metrics["policy_distance"] = moved.item()
    else:
        loss = denoising_loss(model, clean, condition, sigma_range=levels, generators=fresh, weight_B=weight_B)
    metrics["denoising_loss"] = loss.item()
    if config.reference_weight > 0:
        with phase.part("reference distance"):
            distance = distance_to_reference(config, model, clean, condition, numbers)
        loss = loss + config.reference_weight * distance
        metrics["reference_distance"] = distance.item()
    warn_not_finite("loss", ~loss.detach().isfinite(), [pool.names[place] for place in places], processes.index)
    return loss, metrics


def distance_to_reference(
    config: RWRConfig, model: VideoModel, clean: Tensor, condition: Condition, numbers: list[int]
) -> Tensor:
    """|v_on - v_off|^2 at the clips with noise of their own."""
    fresh = clip_generators(config.seed, numbers, Stream.REFERENCE_NOISE)
    levels = shared_levels(config.reference_sigma_range, config.adapter_sigma_range)
    assert levels is not None
    noisy, _, sigma_B = noised(model, clean, condition, sigma_range=levels, generators=fresh)
    return reference_distance(model, noisy, sigma_B, condition)


def drawn_from(pool: Pool, config: RWRConfig, numbers: list[int], per_step: int) -> tuple[list[int], float]:
    """The places in the pool that clips are drawn from, and the share of its clips that can be drawn."""
    drawable = [i for i, weight in enumerate(pool.weight_M.tolist()) if config.weighting == "uniform" or weight]
    share = len(drawable) / len(pool.weight_M)
    drawable = drawable or list(range(len(pool.weight_M)))
    places = []
    for number in numbers:
        epoch, place = divmod(number - pool.first_step * per_step, len(drawable))
        places.append(drawable[shuffled(len(drawable), config.seed, epoch + 1000 * pool.first_step)[place]])
    return places, share


@contextlib.contextmanager
def under_policy(weights: dict[str, nn.Parameter], pool: Pool, phase: Phases) -> Iterator[None]:
    """Inside, the model is the policy that made the pool's clips."""
    with phase.part(BY_POLICY), averages.holding(weights, pool.policy):
        yield


def shortest(config: RWRConfig) -> RWRConfig:
    """A rollout of few steps that stands for a longer one in the plan of memory."""
    return dataclasses.replace(config, num_inference_steps=min(FEW, config.num_inference_steps))


def blank_loss(config: RWRConfig, blank: Blank) -> Tensor:
    """A batch of a round's samples, and the loss of one micro-batch of them, without content."""
    model, count = blank.model, config.per_device_train_batch_size
    if not config.scored:
        with blank.phase("sample"):
            made = list(range(config.sampling_batch_size))
            sample_and_score(config, blank.recipe, model, blank.scenes, made, blank.phase)

    def fetch(places: list[int], numbers: list[int]) -> tuple[Tensor, Condition]:
        prompts = [config.num_generations * number for number in numbers]  # each another one
        batch, condition, _ = prompts_of(config, model, blank.scenes, prompts)
        if config.scored:
            return model.pin(model.encode_clip(batch.video.frames_BTCHW), condition), condition
        return model.initial_latents(condition, clip_generators(config.seed, numbers)), condition

    policy = {name: weight.detach() for name, weight in blank.weights.items()} if config.weighting == "signed" else {}
    pool = Pool(names=["blank"] * count, weight_M=torch.ones(count), fetch=fetch, first_step=0, policy=policy)
    with blank.phase("denoising"):
        drawn = list(range(count))
        return rwr_loss(config, model, blank.weights, pool, drawn, count, blank.processes, blank.phase)[0]


BY_POLICY = "policy's evaluation"
"""The second evaluation of the network where weights are signed, as the plan of memory calls it."""
STEP = Step(
    settings=RWRConfig,
    loss=blank_loss,
    shortest=shortest,
    copies=lambda config: ["policy's copy"] if config.weighting == "signed" else [],
)
"""The step, as the plan of memory runs it."""


def check_scored(config: RWRConfig, model: VideoModel, scored: ScoredClips) -> ScoredClips:
    """Meet sizes and rates that the model does not take."""
    condition_on(model, scored.batch([0]), config, clip_generators(config.seed, [0]))
    return scored


def check_round(config: RWRConfig, recipe: Scorer | None, session: Session, scenes: Scenes | None) -> Scenes:
    """Meet bad sizes and rewards on the data's own first clips, and shares that do not come out even."""
    assert scenes is not None and recipe is not None
    count, ranks = config.prompts_per_round * config.num_generations, session.accelerator.num_processes
    if count % ranks:
        raise ValueError(
            f"prompts_per_round x num_generations must be a multiple of the {ranks} processes, got {count}"
        )
    batch = scenes.batch([0, 1])
    condition = condition_on(session.model, batch, config, clip_generators(config.seed, batch.numbers))
    video = batch.video.with_frames(lasting(batch.video.frames_BTCHW, condition.num_frames)).to(session.model.device)
    scored, _ = score(recipe, video, batch.columns)
    warn_unmeasured(scored)
    if scored.reward_B.shape != (2,) or not scored.reward_B.isfinite().all():
        raise ValueError(f"a reward must return one finite score a clip, shape (2,), got {scored.reward_B.tolist()}")
    return scenes


def checked_source(
    config: RWRConfig, recipe: Scorer | None, session: Session, scenes: Scenes | None, scored: ScoredClips | None
) -> Scenes | ScoredClips:
    """Where clips come from, tried out: an adapter that is off is met, an expert that no step teaches is named."""
    model = session.model
    source = check_scored(config, model, scored) if scored else check_round(config, recipe, session, scenes)
    check_adapter_acts(config, plan_sigmas(model, config, source))
    session.untrained = experts_left_out(model, ranges=[config.denoising_sigma_range])
    warn(about_experts(session.untrained), session.is_main)
    session.learning.watches_steps = config.weighting == "uniform"  # elsewhere whole rounds are watched
    return source


def outline(config: RWRConfig, source: Scenes | ScoredClips) -> dict[str, str]:
    """The trainer's own lines of the plan."""
    if isinstance(source, ScoredClips):
        rounds = f"{len(source):,} clips of {len(source.reward_GN)} prompts, scored before"
    else:
        clips = config.prompts_per_round * config.num_generations
        rounds = f"{clips} clips ({config.num_generations} of each prompt) every {config.inner_steps} steps"
    sharpness = f"target ess {config.target_ess:g}" if config.target_ess else f"temperature {config.temperature:g}"
    weights = f"reward, {sharpness}" if config.weighting == "reward" else config.weighting
    return {"rewards": config.recipe, "rounds": rounds, "weights": weights}


def main(config: RWRConfig | None = None) -> None:
    train(config or parse_config(RWRConfig))


if __name__ == "__main__":
    exit_with_one_line(main)

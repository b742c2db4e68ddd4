"""What may change where a run is resumed. Every setting takes effect, is refused, or means nothing to the steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

HARMLESS = {
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "logging_steps", "save_steps"),
    *("save_total_limit", "eval_steps", "eval_scenes", "eval_recipe", "eval_split", "report_to", "run_name"),
    *("push_to_hub", "hub_model_id", "dry_run", "memory_gib", "disable_tqdm", "gradient_checkpointing"),
    *("max_skipped_steps", "reward_timeout_s", "num_threads", "block_checkpointing", "offload_text_encoder"),
    *("offload_transformer", "decode_checkpointing", "decode_chunk_size", "torch_compile"),
}
"""Settings that change where a run goes or what it costs, and no step: nothing is said of them."""

TAKES_EFFECT = {
    *("model_name_or_path", "adapter_sigma_range", "bf16", "decode_tile_px", "num_inference_steps", "guidance_scale"),
    *("detach_negative", "negative_prompt"),
    *("dataset", "split", "kinds", "at_rest", "image_conditioning", "num_frames", "height", "width", "fps"),
    *("seed", "max_steps", "context_parallel_size", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("weight_decay", "max_grad_norm", "ema_decay", "recipe", "lora_target_modules"),
    *("reward_weight", "max_pixel_grad_ratio", "log_reward_gradients", "grad_steps", "grad_steps_k", "detach_input"),
    *("reference_weight", "reference_sigma_range", "reference_steps", "denoising_weight", "denoising_sigma_range"),
    *("reward_num_frames", "physics_weight", "physics_sigma_range"),
    *("scored", "replay_rounds", "sampling_batch_size", "signed_beta", "temperature", "target_ess", "advantage"),
    *("top_k", "max_weight", "absolute_scale", "absolute_reward"),
}
"""Settings that the coming steps follow; a change is announced. Other target modules are another LoRA, which
`load_checkpoint` refuses."""

NEW_RUN = "start a new run from the checkpoint's LoRA with lora_path"
REFUSED = {
    "lora_path": "the checkpoint holds another LoRA",
    "lora_r": "the checkpoint holds another LoRA",
    "lora_alpha": "it would scale what was learned",
    "full": "the weights that go on are the checkpoint's",
    "weighting": "the clips that are kept carry the other weights",
    "inner_steps": "rounds are counted by it",
    "num_generations": "clips are numbered by it",
    "prompts_per_round": "clips are numbered by it",
}
"""Settings that cannot take effect, with the reason."""

OF_A_ROUND = {
    *("dataset", "split", "kinds", "at_rest", "image_conditioning", "num_frames", "height", "width", "fps", "seed"),
}
"""Settings that the kept clips of a round were made with: until the next round they are refused."""

NEXT_ROUND = {
    *("recipe", "temperature", "target_ess", "advantage", "top_k", "max_weight", "absolute_scale", "absolute_reward"),
    *("num_inference_steps", "adapter_sigma_range", "sampling_batch_size", "guidance_scale", "detach_negative"),
    "negative_prompt",
}
"""Settings by which a round's clips are made and weighted: they take effect when the next is sampled."""

OF_ONE_TRAINER = {"grad_steps": "ORO", "inner_steps": "RWR", "physics_weight": "PSFT"}
"""Settings that one trainer alone has."""

PATHS = {"lora_path", "dataset", "model_name_or_path", "recipe"}


def changes(checkpoint: Path, manifest: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What a run does otherwise from its checkpoint on, one line per setting.

    Args:
        checkpoint: its folder, which keeps the recipe's text.
        manifest: its table.
        config: settings of the run that goes on.

    Raises:
        ValueError: a setting that cannot take effect, with the reason.
    """
    before, step, lines = manifest["config"], manifest["step"], []
    for name, trainer in OF_ONE_TRAINER.items():
        if name in before and name not in config:
            raise ValueError(f"checkpoint {checkpoint} is one of {trainer}: resume it with {trainer}, or {NEW_RUN}")
    if step > config["max_steps"]:
        raise ValueError(
            f"max_steps {config['max_steps']} is less than the {step} steps of {checkpoint}: raise max_steps, or "
            "resume from an earlier checkpoint"
        )
    rounds = "inner_steps" in config and not config.get("scored")
    kept = rounds and (step % config["inner_steps"] > 0 or config["replay_rounds"] > 1)
    for name in sorted((before.keys() | config.keys()) - HARMLESS):
        old, new = before.get(name), config.get(name)
        if name not in before or same(name, old, new):
            continue
        reason = refusal(name, before, config, kept=kept)
        if reason:
            raise ValueError(
                f"{name} cannot change on resume, {reason}: expected {old} as in {checkpoint}, got {new}: put it back, "
                f"or {NEW_RUN}"
            )
        later = " (from the next round on)" if rounds and name in NEXT_ROUND and step % config["inner_steps"] else ""
        lines.append(f"{name}: {old} -> {new}{later}")
    copied, recipe = checkpoint / "recipe.yaml", Path(str(config.get("recipe")))
    named = same("recipe", before.get("recipe"), config.get("recipe")) and copied.is_file() and recipe.is_file()
    if named and copied.read_bytes() != recipe.read_bytes():
        lines.append(f"recipe: the text of {recipe}")
    return lines


def refusal(name: str, before: Mapping[str, Any], config: Mapping[str, Any], *, kept: bool) -> str:
    """Why a changed setting cannot take effect; nothing where it can.

    Args:
        kept: clips of earlier rounds are still learned from.
    """
    offline = bool(before.get("scored")) and bool(config.get("scored"))
    if name == "scored" and bool(before.get(name)) != bool(config.get(name)):
        return "the run learns from its own clips or from scored ones all along"
    if name == "model_name_or_path" and config.get("full"):
        return "the weights that go on are the checkpoint's"
    if name.startswith("lora_") and config.get("full") and before.get("full"):
        return ""
    if offline and name in ("inner_steps", "num_generations", "prompts_per_round"):
        return ""
    if name == "weighting" and (offline or "signed" not in (before[name], config[name])):
        return ""
    if kept and name in OF_A_ROUND:
        return "the clips of the present round were made with it"
    return REFUSED.get(name, "")


def same(name: str, old: Any, new: Any) -> bool:
    """Whether two values of a setting mean the same: a path may be written in several ways."""
    if old == new:
        return True
    if name in PATHS and isinstance(old, str) and isinstance(new, str):
        return Path(old).resolve() == Path(new).resolve()
    return isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) and list(old) == list(new)

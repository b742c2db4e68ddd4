"""The plan's peak is that of the CPU allocator's own record; published models can be planned with no weights."""

import dataclasses
from pathlib import Path

import pytest
import torch
from families import ONE_EACH

from trainers import oro, psft, rwr
from trainers.learning.batches import Scenes, condition_on
from trainers.learning.clocks import Phases
from trainers.learning.figures import Processes
from trainers.learning.streams import clip_generators
from trainers.memory_plan.__main__ import PlanConfig
from trainers.memory_plan.blank import Blank, MeteredPhases, blank_condition
from trainers.memory_plan.decoding import decode_cost, remember_decoding
from trainers.memory_plan.meter import MemoryMeter, allocator_peak_bytes, cpu_workspace, fused_attention
from trainers.memory_plan.plan import GIB, build, plan
from trainers.memory_plan.report import report
from trainers.models import load_video_model, lora_parameters
from trainers.models.sizes import SIZES, find_size
from trainers.rounds.pool import Pool
from trainers.settings.common import TrainerConfig
from trainers.settings.options import parse_config, strict
from trainers.settings.oro import OROConfig
from trainers.settings.regression import PSFTConfig, RWRConfig


@strict
class PlainConfig(TrainerConfig):
    """The settings of no trainer in particular."""


ROOT = Path(__file__).resolve().parents[3]
CARDS = sorted(ROOT.glob("configs/oro_*gb.yaml"))
SMALL = PlanConfig(
    size="wan2.1-1.3b",
    num_frames=9,
    height=32,
    width=32,
    num_inference_steps=2,
    per_device_train_batch_size=2,
    bf16=False,
    block_checkpointing=False,
    decode_checkpointing=False,
    reference_sigma_range=[0.0, 1.0],
)
PLANNED = [one for one in ONE_EACH if one.name in ("ltx-i2v", "wan-t2v", "cogvideox-t2v", "hunyuan-t2v")]


def test_the_meter_counts_each_storage_once_and_forgets_what_is_freed():
    """Six layers of 1,000 x 64 float32 keep six outputs and the sine's; only the weights' gradients stay."""
    for device in ("cpu", "meta"):
        network = torch.nn.Sequential(*[torch.nn.Linear(64, 64, device=device) for _ in range(6)])
        inputs = torch.empty(1000, 64, device=device)
        with MemoryMeter() as meter:
            value = network(inputs).view(-1).sin().sum()
            assert meter.take_peak() == 7 * 256_000 + 4
            value.backward()
            del value
        assert meter.bytes == 6 * (64 * 64 + 64) * 4


def test_small_convolutions_are_unfolded_on_a_cpu():
    """One clip of 8 channels, kernel of 27 places, 4 x 10 x 10 places out: 8 * 27 * 400 float32."""
    conv = torch.nn.Conv3d(8, 8, 3)
    inputs = torch.zeros(1, 8, 6, 12, 12)
    measured = allocator_peak_bytes(lambda: conv(inputs))
    with MemoryMeter(cpu_workspace) as meter:
        conv(inputs)
    assert meter.peak_bytes == 8 * 27 * 400 * 4 + 8 * 400 * 4
    assert measured == pytest.approx(meter.peak_bytes, rel=0.01)


def run(step, config, model, phase):
    """Forward and backward of a trainer's own loss on clips of no content."""
    loss = step.loss(config, Blank.of(model, config, phase))
    with phase("backward"):
        loss.backward()


def planned_and_measured(family, config, step=oro.STEP):
    """Peaks in bytes: of the plan, without data, and of the allocator while the same step runs."""
    pipeline = family.make()
    config = dataclasses.replace(config, image_conditioning=family.image)
    model = family.adapter(pipeline)
    model.add_lora(r=4, alpha=4)
    measured = allocator_peak_bytes(lambda: run(step, config, model, Phases()))
    for name in ("transformer", "vae"):
        getattr(pipeline, name).to("meta")
    meter = MemoryMeter(cpu_workspace)
    phase = MeteredPhases(meter, step.names)
    model = family.adapter(family.make())
    for name in ("transformer", "vae"):
        getattr(model.pipeline, name).to("meta")
    model.add_lora(r=4, alpha=4)
    remember_decoding(model, meter, {})
    with fused_attention(), meter:
        run(step, config, model, phase)
    return max(phase.peaks.values()), measured


@pytest.mark.slow
@pytest.mark.parametrize("family", PLANNED, ids=str)
def test_the_plan_is_within_15_percent_of_the_allocator(family):
    """Over frames, resolution, steps with graph, chunk size and checkpointing, on tiny models."""
    errors = {}
    for changes in (
        {},
        {"gradient_checkpointing": False, "num_frames": 33},
        {"height": 64, "width": 96, "grad_steps": "last"},
        {"decode_checkpointing": True, "num_frames": 33},
        {"decode_checkpointing": True, "decode_chunk_size": 1},
        {"decode_chunk_size": 1, "block_checkpointing": True, "denoising_weight": 1.0},
    ):
        planned, measured = planned_and_measured(family, dataclasses.replace(SMALL, **changes))
        errors[str(changes)] = round(planned / measured - 1, 3)
    print(family.name, errors)
    assert all(abs(value) < 0.15 for value in errors.values()), errors


@pytest.mark.parametrize("trainer", [rwr, psft])
def test_the_other_trainers_are_planned_within_15_percent(trainer):
    own = {"sampling_batch_size": 3} if trainer is rwr else {"physics_weight": 1.0}
    size = {"num_frames": 9, "height": 32, "width": 32, "num_inference_steps": 2, "per_device_train_batch_size": 2}
    planned, measured = planned_and_measured(PLANNED[0], trainer.STEP.settings(**size, **own), trainer.STEP)
    assert planned == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(("trainer", "kind"), [(rwr, PSFTConfig), (psft, OROConfig), (oro, PlainConfig)])
def test_the_settings_of_another_trainer_are_refused(trainer, kind):
    with pytest.raises(ValueError, match=f"step of {trainer.STEP.settings.__name__} .* got {kind.__name__}: give the"):
        plan(SIZES["wan2.1-1.3b"], kind(num_frames=9, height=32, width=32), trainer.STEP)


def signed_step(config, model, policy):
    """The loss of one micro-batch of the data's own clips under signed weights, and its backward pass."""
    batch = Scenes(config, config.split).batch(list(range(config.per_device_train_batch_size)))
    generators = clip_generators(config.seed, batch.numbers)
    with torch.no_grad():
        clean = model.encode_clip(batch.video.frames_BTCHW)

    def fetch(places, numbers):
        return clean, condition_on(model, batch, config, generators)

    count = len(batch.numbers)
    pool = Pool(names=batch.ids, weight_M=torch.linspace(-1, 1, count), fetch=fetch, first_step=0, policy=policy)
    weights, numbers = lora_parameters(model.transformer), list(range(count))
    loss, figures = rwr.rwr_loss(config, model, weights, pool, numbers, count, Processes(), Phases())
    assert "policy_distance" in figures
    loss.backward()


def test_the_plan_of_signed_weights_names_their_evaluation_and_copy_and_is_that_of_the_real_step():
    """The embedded model, the shipped clips, `configs/rwr_drops.yaml` with eight clips a step."""
    config = parse_config(RWRConfig, ["--config", str(ROOT / "configs/rwr_drops.yaml")])
    size = {"num_frames": 17, "height": 64, "width": 64}
    config = dataclasses.replace(config, per_device_train_batch_size=8, sampling_batch_size=1, **size)
    found = plan(find_size(config.model_name_or_path), config, rwr.STEP, workspace=cpu_workspace)
    model = load_video_model(config.model_name_or_path)
    model.add_lora(r=config.lora_r, alpha=config.lora_alpha, targets=config.lora_target_modules)
    policy = {name: weight.detach().clone() for name, weight in lora_parameters(model.transformer).items()}
    measured = allocator_peak_bytes(lambda: signed_step(config, model, policy))
    planned = max(found.phases.values())
    print(f"planned {planned / 2**20:.1f} MiB, measured {measured / 2**20:.1f} MiB, {planned / measured - 1:+.1%}")
    assert planned == pytest.approx(measured, rel=0.15)
    assert found.held["policy's copy"] == found.held["LoRA"] == 4 * found.weights["LoRA"]
    assert 0 < found.phases["policy's evaluation"] < found.phases["denoising"]
    plain = plan(find_size(config.model_name_or_path), dataclasses.replace(config, weighting="reward"), rwr.STEP)
    assert not [name for name in (*plain.held, *plain.phases) if "policy" in name]


def test_remembered_shapes_and_decodes_change_no_plan(monkeypatch):
    """Neither what operators make nor what decoding costs is taken from memory in the second plan."""
    config = OROConfig(
        num_frames=9, height=32, width=32, num_inference_steps=2, per_device_train_batch_size=2, decode_chunk_size=1
    )
    size = find_size("data/drops/model")
    remembered = [plan(size, config, oro.STEP, workspace=cpu_workspace) for _ in range(2)]
    monkeypatch.setattr("trainers.memory_plan.no_data._describe", lambda values, parts: False)
    anew = plan(size, config, oro.STEP, workspace=cpu_workspace)
    assert remembered == [anew, anew]
    monkeypatch.setattr("trainers.memory_plan.plan.remember_decoding", lambda model, meter, costs: None)
    decoded = plan(size, config, oro.STEP, workspace=cpu_workspace)
    assert decoded.phases["decode"] == pytest.approx(anew.phases["decode"], rel=0.01)
    assert {name: peak for name, peak in decoded.phases.items() if name != "decode"} == {
        name: peak for name, peak in anew.phases.items() if name != "decode"
    }


def test_a_published_size_has_its_weights():
    """Wan 2.1 1.3B has 1.419 billion."""
    transformer = build(SIZES["wan2.1-1.3b"], torch.bfloat16).transformer
    assert sum(weight.numel() for weight in transformer.parameters()) == pytest.approx(1.419e9, rel=0.001)


@pytest.mark.parametrize("family", PLANNED, ids=str)
def test_networks_without_data_have_the_types_that_loading_gives(family, tmp_path):
    family.make(folder=tmp_path)
    loaded = load_video_model(tmp_path, torch_dtype=torch.bfloat16)
    built = build(find_size(str(tmp_path)), torch.bfloat16)
    for name in ("transformer", "vae"):
        expected, actual = (dict(getattr(one.pipeline, name).named_parameters()) for one in (loaded, built))
        assert {key: weight.dtype for key, weight in actual.items()} == {k: w.dtype for k, w in expected.items()}
        assert all(weight.is_meta for weight in actual.values())


def test_a_plan_from_few_blocks_and_steps_is_that_of_all(monkeypatch):
    whole = SIZES["ltx-2b"]
    cut = dataclasses.replace(whole, transformer=(whole.transformer[0], {"num_layers": 5}))
    few = {"num_inference_steps": 5, "reference_sigma_range": [0.0, 0.4]}  # which a rollout of two steps does not enter
    config = dataclasses.replace(SMALL, gradient_checkpointing=False, **few)
    short = plan(cut, config, oro.STEP)
    monkeypatch.setattr("trainers.memory_plan.plan.FEW", 9)
    monkeypatch.setattr("trainers.oro.FEW", 9)
    full = plan(cut, config, oro.STEP)
    assert short.held == full.held
    assert short.weights == full.weights
    for name, peak in full.phases.items():
        assert short.phases[name] == pytest.approx(peak, rel=0.02)


@pytest.mark.slow
def test_checkpoints_lower_the_peak_and_the_report_says_so():
    whole = SIZES["wan2.1-1.3b"]
    few = (whole.transformer[0], whole.transformer[1] | {"num_layers": 3})
    cut = dataclasses.replace(whole, transformer=few, text_weights=0)  # else the encoders at hand are the peak
    cheap = dataclasses.replace(
        SMALL, height=64, width=64, bf16=True, block_checkpointing=True, decode_checkpointing=True
    )
    dear = dataclasses.replace(cheap, block_checkpointing=False, gradient_checkpointing=False)
    found = plan(cut, cheap, oro.STEP)
    assert plan(cut, dear, oro.STEP).phases["rollout"] > 3 * found.phases["rollout"]
    text = report(cut, dataclasses.replace(dear, decode_checkpointing=False), oro.STEP, 0.5)
    assert "does not fit in 0.5 GiB" in text
    assert "  with decode_checkpointing True: " in text
    assert f"{found.held['transformer'] / GIB:8.2f} GiB, {found.weights['transformer']:,} weights" in text


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bound"), [("wan2.1-1.3b", 1.3), ("wan2.2-ti2v-5b", 1.3), ("hunyuanvideo", 1.1)])
def test_decode_and_backward_hardly_grow_with_the_clip(name, bound):
    """65 frames against 17, the published autoencoders."""
    whole, peaks = SIZES[name], []
    model = build(
        dataclasses.replace(whole, transformer=(whole.transformer[0], whole.transformer[1] | {"num_layers": 1})),
        torch.float32,
    )
    for num_frames in (17, 65):
        condition = blank_condition(model, dataclasses.replace(SMALL, num_frames=num_frames, height=64, width=64))
        latents = model.initial_latents(condition, None).requires_grad_()
        cost = decode_cost(model, latents, condition, checkpointing=True, workspace=lambda *operator: 0)
        peaks.append(cost.peak_bytes)
    assert peaks[1] < bound * peaks[0]


@pytest.mark.slow
@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_every_config_fits_its_device_with_a_tenth_to_spare(path):
    config = parse_config(OROConfig, ["--config", str(path)])
    found = plan(find_size(config.model_name_or_path), config, oro.STEP)
    print(path.stem, f"{found.peak_bytes / GIB:.1f} GiB of {config.memory_gib:g}")
    assert found.peak_bytes < 0.9 * config.memory_gib * GIB


def test_there_is_a_config_for_every_family_and_device():
    families = {"ltx", "wan", "cogvideox", "hunyuan"}
    assert {path.stem for path in CARDS} == {f"oro_{f}_{d}gb" for f in families for d in ("24", "80", "8x80")}


def test_a_dry_run_plans_every_trainer_from_configs_alone(tmp_path, capsys):
    """A folder of configs without weights, no data, no recipe."""
    family = PLANNED[0]
    family.make(folder=tmp_path / "model")
    for file in (tmp_path / "model").rglob("*.safetensors"):
        file.unlink()
    size = {"num_frames": 9, "height": 32, "width": 32, "num_inference_steps": 2, "memory_gib": 1.0}
    common = {"model_name_or_path": str(tmp_path / "model"), "dataset": str(tmp_path / "none"), "dry_run": True}
    for train, config_class in ((oro.train, OROConfig), (rwr.train, RWRConfig), (psft.train, PSFTConfig)):
        config = config_class(**common, **size, output_dir=str(tmp_path / "run"), report_to=["none"])
        with pytest.raises(SystemExit) as stop:
            train(config)
        assert stop.value.code == 0
        told = capsys.readouterr().out
        assert "transformer" in told
        assert "peak of backward" in told
        assert "fits in 1 GiB" in told
        assert "are not here: nothing else was built" in told
    assert not (tmp_path / "run").exists()


def test_unknown_sizes_and_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"size of wan2\.1-1\.3 is not known.*: did you mean wan2\.1-1\.3b"):
        find_size("wan2.1-1.3")
    with pytest.raises(ValueError, match=r"num_frames must be .*, got 10: try 9"):
        plan(SIZES["wan2.1-1.3b"], dataclasses.replace(SMALL, num_frames=10), oro.STEP)
    with pytest.raises(ValueError, match=r"offload_transformer needs .*: set block_checkpointing to true"):
        OROConfig(offload_transformer=True)

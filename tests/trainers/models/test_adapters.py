"""The same LoRA in the form of every usual writer is the same LoRA; what is not understood is refused by name."""

import json

import pytest
import torch
from diffusers.loaders import single_file_utils
from families import BY_NAME, condition_of, seeds
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from trainers.models.adapter_names import HUNYUAN, layers_of, names_of

FAMILIES = ["ltx-t2v", "wan-t2v", "cogvideox-t2v", "hunyuan-t2v"]
CONVERTERS = {
    "ltx-t2v": single_file_utils.convert_ltx_transformer_checkpoint_to_diffusers,
    "wan-t2v": single_file_utils.convert_wan_transformer_to_diffusers,
    "wan-i2v": single_file_utils.convert_wan_transformer_to_diffusers,
    "hunyuan-t2v": single_file_utils.convert_hunyuan_video_transformer_to_diffusers,
}
"""What diffusers makes of the names of the models' authors."""


def fresh(family):
    return BY_NAME[family].adapter(BY_NAME[family].make())


def deltas(model):
    """What the LoRA adds to each layer's weight."""
    found = {}
    for name, layer in model.transformer.named_modules():
        if isinstance(layer, LoraLayer):
            a, b = layer.lora_A["default"], layer.lora_B["default"]
            found[name] = layer.scaling["default"] * b.weight.flatten(1) @ a.weight.flatten(1)
            if b.bias is not None:
                found[f"{name} bias"] = layer.scaling["default"] * b.bias
    return found


def predicted(family, model):
    condition = condition_of(BY_NAME[family], model)
    latents = model.initial_latents(condition, seeds())
    with torch.no_grad():
        return model.predict(latents, torch.full((2,), 0.7), condition)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def modules(family):
    """A random LoRA on every attention projection and one more layer, by module: first factor, second factor, alpha."""
    generator = torch.Generator().manual_seed(0)
    layers = layers_of(fresh(family).transformer)
    ends = ("to_q", "to_k", "to_v", "to_out.0", "net.2", "add_q_proj", "add_k_proj", "add_v_proj", "proj_mlp")
    chosen = {name: layer for name, layer in layers.items() if name.endswith(ends)}
    drawn = {}
    for i, (name, layer) in enumerate(chosen.items()):
        rank = 4 + 2 * ("net.2" in name)  # another rank here and there
        rows, columns = layer.weight.shape
        a = 0.5 * torch.randn(rank, columns, generator=generator)
        b = 0.5 * torch.randn(rows, rank, generator=generator)
        drawn[name] = (a, b, float(1 + i % 3))
    return drawn


def expected(modules):
    return {name: alpha / len(a) * b @ a for name, (a, b, alpha) in modules.items()}


def written(modules, names, factors=("lora_A.weight", "lora_B.weight"), alpha="alpha"):
    """A file's tensors: `names` calls a module, `factors` its parts."""
    state = {}
    for module, (a, b, alpha_of) in modules.items():
        state |= {f"{names(module)}.{factors[0]}": a.clone(), f"{names(module)}.{factors[1]}": b.clone()}
        state |= {f"{names(module)}.{alpha}": torch.tensor(alpha_of)} if alpha else {}
    return state


def same(family, modules, file):
    """The file's LoRA adds what the modules' say, and is on no other layer."""
    model = fresh(family)
    model.load_lora(file)
    found, wanted = deltas(model), expected(modules)
    assert found.keys() == wanted.keys()
    for name, delta in wanted.items():
        torch.testing.assert_close(found[name], delta, rtol=1e-5, atol=1e-6)
    return model


FORMS = {
    "diffusers": (lambda name: f"transformer.{name}", ("lora_A.weight", "lora_B.weight")),
    "no prefix": (lambda name: name, ("lora_A.weight", "lora_B.weight")),
    "old diffusers": (lambda name: f"transformer.{name}", ("lora.down.weight", "lora.up.weight")),
    "peft": (lambda name: f"base_model.model.{name}", ("lora_A.weight", "lora_B.weight")),
    "DiffSynth": (lambda name: name, ("lora_A.default.weight", "lora_B.default.weight")),
    "diffusion-pipe": (lambda name: f"diffusion_model.{name}", ("lora_A.weight", "lora_B.weight")),
    "kohya": (lambda name: "lora_unet_" + name.replace(".", "_"), ("lora_down.weight", "lora_up.weight")),
    "OneTrainer": (lambda name: "lora_transformer_" + name.replace(".", "_"), ("lora_down.weight", "lora_up.weight")),
    "LyCORIS": (lambda name: "lycoris_" + name.replace(".", "_"), ("lora_down.weight", "lora_up.weight")),
    "compiled": (lambda name: f"module._orig_mod.{name}", ("lora_A.weight", "lora_B.weight")),
}


def elsewhere(family):
    """What the authors of the model call each of its layers; its own name where they are fused or the same."""
    table = names_of(fresh(family).transformer)
    theirs = {}
    for name, parts in table.items():
        if len(parts) == 1 and name != parts[0] and "." in name and "_attn." not in name.replace("self_attn.", ""):
            theirs.setdefault(parts[0], name)
    return theirs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("original", [False, True])
def test_every_form_is_the_same_lora(family, modules, tmp_path, form, original):
    theirs = elsewhere(family) if original else {}
    call, factors = FORMS[form]
    save_file(written(modules, lambda name: call(theirs.get(name, name)), factors), tmp_path / "lora.safetensors")
    same(family, modules, tmp_path / "lora.safetensors")


def test_the_outputs_are_those_of_the_native_file(family, modules, tmp_path):
    save_file(written(modules, lambda name: f"transformer.{name}"), tmp_path / "a.safetensors")
    theirs = elsewhere(family)
    call, factors = FORMS["kohya"]
    save_file(written(modules, lambda name: call(theirs.get(name, name)), factors), tmp_path / "b.safetensors")
    native = same(family, modules, tmp_path / "a.safetensors")
    native.save_lora(tmp_path / "native")
    others = [same(family, modules, tmp_path / "b.safetensors"), fresh(family)]
    others[1].load_lora(tmp_path / "native")
    base, wanted = predicted(family, fresh(family)), predicted(family, native)
    assert (wanted - base).abs().max() > 1e-3
    for other in others:
        torch.testing.assert_close(predicted(family, other), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family_name", CONVERTERS)
def test_the_names_of_the_authors_are_those_that_diffusers_converts(family_name):
    network = fresh(family_name).transformer
    fused = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "proj_mlp")
    checked = 0
    for module, name in elsewhere(family_name).items():
        if family_name.startswith("hunyuan") and module.endswith(fused):
            continue
        converted = CONVERTERS[family_name]({f"{name}.weight": torch.zeros(4, 4)})
        assert list(converted) == [f"{module}.weight"], name
        checked += 1
    assert checked >= (2 if family_name.startswith("ltx") else 8)
    flat = {}
    for name, parts in names_of(network).items():
        assert flat.setdefault(name.replace(".", "_"), parts) == parts, "two layers of one name without dots"


def fuse(modules, parts):
    """One pair of factors whose product is that of several modules below each other."""
    a = torch.cat([modules[part][0] for part in parts])
    b = torch.block_diag(*[modules[part][1] * modules[part][2] / len(modules[part][0]) for part in parts])
    return a, b, float(len(a))


@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer.", "lora_unet_"])
def test_fused_projections_are_split(family, modules, tmp_path, prefix):
    table = names_of(fresh(family).transformer)
    own, state, wanted = dict(modules), {}, set()
    for name, parts in table.items():
        if len(parts) > 1 and "." in name and own.keys() >= set(parts):
            wanted |= set(parts)
            fused = fuse(own, parts)
            own = {module: value for module, value in own.items() if module not in parts}
            called = prefix + (name.replace(".", "_") if prefix.endswith("_") else name)
            state |= {f"{called}.lora_down.weight": fused[0], f"{called}.lora_up.weight": fused[1]}
            state |= {f"{called}.alpha": torch.tensor(fused[2])}
    assert wanted
    save_file(state, tmp_path / "lora.safetensors")
    same(family, {name: modules[name] for name in modules if name in wanted}, tmp_path / "lora.safetensors")


CONFIG = {"r": 4, "lora_alpha": 6, "target_modules": ["to_q"], "alpha_pattern": {"to_k": 3}}


def with_alphas(modules, *, stabilised=False):
    """The modules at the alphas of `CONFIG`."""

    def alpha(name, rank):
        alpha = 3 if name.endswith("to_k") else 6
        return alpha * rank**0.5 if stabilised else float(alpha)

    return {name: (a, b, alpha(name, len(a))) for name, (a, b, _) in modules.items()}


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize("where", ["beside", "header"])
def test_a_config_beside_the_file_or_in_its_header_says_alpha(family, modules, tmp_path, where, stabilised):
    config, state = CONFIG | {"use_rslora": stabilised}, written(modules, lambda name: name, alpha=None)
    file = tmp_path / "adapter_model.safetensors"
    save_file(state, file, metadata={"lora_config": json.dumps(config)} if where == "header" else None)
    if where == "beside":
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    for path in (tmp_path, file):
        same(family, with_alphas(modules, stabilised=stabilised), path)


def test_without_alpha_the_scale_is_one(family, modules, tmp_path):
    save_file(written(modules, lambda name: name, alpha=None), tmp_path / "lora.safetensors")
    same(family, {name: (a, b, float(len(a))) for name, (a, b, _) in modules.items()}, tmp_path)


def test_a_bias_that_was_learned_is_loaded(family, modules, tmp_path):
    state = written(modules, lambda name: f"diffusion_model.{name}")
    for i, (name, (_, b, _)) in enumerate(modules.items()):
        last = "diff_b" if i % 2 else "lora_B.bias"
        state[f"diffusion_model.{name}.{last}"] = torch.full((len(b),), float(i + 1))
    save_file(state, tmp_path / "lora.safetensors")
    model = fresh(family)
    model.load_lora(tmp_path)
    found = deltas(model)
    for i, (name, (a, b, alpha)) in enumerate(modules.items()):
        scale = 1.0 if i % 2 else alpha / len(a)
        torch.testing.assert_close(found[f"{name} bias"], torch.full((len(b),), (i + 1) * scale))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_float32_lora_keeps_its_numbers_on_a_base_of_half_precision(family, modules, tmp_path, dtype):
    save_file(written(modules, lambda name: name), tmp_path / "lora.safetensors")
    model = fresh(family)
    model.transformer.to(dtype)
    model.load_lora(tmp_path, trainable=True)
    for name, (a, _, _) in modules.items():
        weight = model.transformer.get_submodule(name).lora_A["default"].weight
        assert weight.dtype == torch.float32 and (weight == a).all() and weight.requires_grad


REFUSED = {
    "MODULE.dora_scale": "DoRA",
    "MODULE.lora_magnitude_vector": "DoRA",
    "MODULE.lokr_w1": "LoKr",
    "MODULE.hada_w1_a": "LoHa",
    "MODULE.lora_mid.weight": "Tucker",
    "text_encoder.layers.0.q.lora_A.weight": "text encoder",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": "text encoder",
    "transformer.no.such.layer.lora_A.weight": "not understood",
    "lora_unet_no_such_layer.lora_down.weight": "not understood",
    "MODULE.unheard_of": "not understood",
    "MODULE.diff": "not understood",
    "transformer_2.MODULE.lora_A.weight": "not understood",
    "base_model.model.MODULE.modules_to_save.weight": "not understood",
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_is_not_understood_is_named_and_nothing_is_loaded(family, modules, tmp_path, key):
    state = written(modules, lambda name: name)
    name = key.replace("MODULE", next(iter(modules)))
    save_file(state | {name: torch.ones(3, 3)}, tmp_path / "lora.safetensors")
    model = fresh(family)
    with pytest.raises(ValueError, match=f"(?s){REFUSED[key]}.*{name}|{name}.*{REFUSED[key]}"):
        model.load_lora(tmp_path / "lora.safetensors")
    assert not deltas(model)


def test_norms_where_nothing_was_learned_are_left_out(family, modules, tmp_path):
    state = written(modules, lambda name: name) | {"blocks.0.norm3.diff": torch.zeros(4)}
    save_file(state, tmp_path / "lora.safetensors")
    same(family, modules, tmp_path)


def test_half_a_pair_another_shape_no_number_and_two_alphas_are_refused(family, modules, tmp_path):
    name = next(iter(modules))
    for change, message in (
        (lambda state: state.pop(f"{name}.lora_B.weight"), r"lacks lora_B"),
        (lambda state: state.update({f"{name}.lora_A.weight": torch.ones(4, 3)}), "but the layer is"),
        (lambda state: state[f"{name}.lora_B.weight"].fill_(float("nan")), f"{name}.lora_B.weight are not finite"),
        (lambda state: state.clear() or state.update({"x": torch.ones(1)}), "not understood"),
    ):
        state = written(modules, lambda name: name)
        change(state)
        save_file(state, tmp_path / "lora.safetensors")
        with pytest.raises(ValueError, match=message):
            fresh(family).load_lora(tmp_path)
    config = {"lora_config": json.dumps({"r": 4, "lora_alpha": 99})}
    save_file(written(modules, lambda name: name), tmp_path / "lora.safetensors", metadata=config)
    with pytest.raises(ValueError, match="but its config says 99"):
        fresh(family).load_lora(tmp_path)


def test_a_folder_of_several_files_asks_for_one(family, modules, tmp_path):
    for name in ("epoch1.safetensors", "epoch2.safetensors"):
        save_file(written(modules, lambda name: name), tmp_path / name)
    with pytest.raises(ValueError, match=r"epoch1\.safetensors, epoch2\.safetensors: name the file itself"):
        fresh(family).load_lora(tmp_path)
    same(family, modules, tmp_path / "epoch2.safetensors")
    with pytest.raises(ValueError, match="no such file"):
        fresh(family).load_lora(tmp_path / "epoch3.safetensors")


def test_the_config_of_another_file_is_left_alone(family, modules, tmp_path):
    for name in ("kohya.safetensors", "adapter_model.safetensors"):
        save_file(written(modules, lambda name: name), tmp_path / name)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 99}))
    same(family, modules, tmp_path / "kohya.safetensors")
    with pytest.raises(ValueError, match="but its config says 99"):
        fresh(family).load_lora(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_a_file_of_fewer_bits_is_loaded_as_it_is(family, modules, tmp_path, dtype):
    state = written(modules, lambda name: f"transformer.{name}")
    few = {name: value if name.endswith("alpha") else value.to(dtype) for name, value in state.items()}
    save_file(few, tmp_path / "lora.safetensors")
    rounded = {name: (a.to(dtype).float(), b.to(dtype).float(), alpha) for name, (a, b, alpha) in modules.items()}
    same(family, rounded, tmp_path)


def test_a_second_expert_stands_in_the_same_file_or_beside_it(tmp_path):
    model = fresh("wan-a14b")
    model.add_lora(r=2, alpha=4)
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.transformer.named_parameters():
        if "lora_" in name:
            weight.data.normal_(generator=generator)
    model.save_lora(tmp_path / "two")
    files = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights_2.safetensors")
    one, two = (load_file(tmp_path / "two" / name) for name in files)
    whole = {f"diffusion_model.{key.removeprefix('transformer.')}": value for key, value in one.items()}
    whole |= {key.replace("transformer.", "transformer_2.", 1): value for key, value in two.items()}
    alphas = {key.replace("lora_A.weight", "alpha"): torch.tensor(4.0) for key in whole if "lora_A" in key}
    (tmp_path / "one").mkdir()
    save_file(whole | alphas, tmp_path / "one" / "lora.safetensors")
    wanted = deltas(model)
    for folder in ("two", "one"):
        loaded = fresh("wan-a14b")
        loaded.load_lora(tmp_path / folder)
        found = deltas(loaded)
        assert found.keys() == wanted.keys()
        assert all(torch.allclose(found[name], delta) for name, delta in wanted.items())
    save_file(one, tmp_path / "one" / "lora.safetensors")
    with pytest.raises(ValueError, match="weights_2"):
        fresh("wan-a14b").load_lora(tmp_path / "one")


def test_the_table_of_hunyuan_names_each_layer_once():
    assert len(set(HUNYUAN.values())) == len(HUNYUAN)

"""A base that is not whole is refused by name, whatever of it is missing; nothing is made up."""

import json
import shutil

import pytest
import torch
from families import BY_NAME
from safetensors.torch import load_file, save_file

from trainers.models import load_video_model
from trainers.models.bases import listed

FAMILIES = ["ltx-t2v", "wan-t2v", "cogvideox-t2v", "hunyuan-t2v"]
COMPONENTS = ["transformer", "vae", "text_encoder"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of every family's pipeline."""
    folder = tmp_path_factory.mktemp("bases")
    for name in FAMILIES:
        BY_NAME[name].make(folder=folder / name)
    return folder


@pytest.fixture(params=FAMILIES)
def base(request, whole, tmp_path):
    return shutil.copytree(whole / request.param, tmp_path / "base")


def weights(folder):
    return next(path for path in folder.iterdir() if path.suffix == ".safetensors")


def changed(folder, change):
    """Write a component's weights again; what `change` returns."""
    path = weights(folder)
    state = load_file(path)
    result = change(state)
    save_file(state, path, metadata={"format": "pt"})
    return result


def split(folder, *, last):
    """Weights in two shards, of which the second is absent, or a copy of the first; a tensor of the second."""
    path = weights(folder)
    state, names = (
        load_file(path),
        [path.name.replace(".safetensors", f"-0000{i}-of-00002.safetensors") for i in (1, 2)],
    )
    keys = sorted(state)
    save_file({key: state[key] for key in keys[:3]}, folder / names[0], metadata={"format": "pt"})
    if last:
        shutil.copy(folder / names[0], folder / names[1])
    path.unlink()
    table = {key: names[i >= 3] for i, key in enumerate(keys)}
    index = folder / path.name.replace(".safetensors", ".safetensors.index.json")
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))
    return names[1] if not last else ""


def written(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_base_is_loaded_as_the_stock_does(base):
    from diffusers import DiffusionPipeline

    model, stock = load_video_model(base), DiffusionPipeline.from_pretrained(base)
    for name, module in stock.components.items():
        if isinstance(module, torch.nn.Module):
            ours = dict(getattr(model.pipeline, name).state_dict())
            assert all((ours[key] == value).all() for key, value in module.state_dict().items())


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_tensor_that_is_missing_is_named(base, component):
    name = changed(base / component, lambda state: (key := sorted(state)[len(state) // 2], state.pop(key))[0])
    with pytest.raises(ValueError, match=f"{component} of model .* lacks {name}"):
        load_video_model(base)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_tensor_of_another_shape_is_named(base, component):
    def cut(state):
        key = sorted(state)[0]
        state[key] = torch.zeros(3, 3)
        return key

    name = changed(base / component, cut)
    with pytest.raises(ValueError, match=f"{component} of model .*{name}"):
        load_video_model(base)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_file_cut_short_is_named(base, component):
    path = weights(base / component)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cannot be read .*copy or download"):
        load_video_model(base)


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("last", [False, True])
def test_a_shard_that_is_absent_or_lacks_its_tensors_is_refused(base, component, last):
    absent = split(base / component, last=last)
    with pytest.raises(ValueError, match=f"{component} of model .* lacks" if last else absent):
        load_video_model(base)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_that_is_gone_is_named(base, component):
    (base / component / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json"):
        load_video_model(base)
    shutil.rmtree(base / component)
    with pytest.raises(ValueError, match=f"lacks the folder of {component}"):
        load_video_model(base)
    written(base / "model_index.json", **{component: [None, None]})
    with pytest.raises(ValueError, match=f"has no {component}, which .*Pipeline needs"):
        load_video_model(base)


@pytest.mark.parametrize("component", ["transformer", "vae"])
def test_another_class_is_refused(base, component):
    written(base / component / "config.json", _class_name="FluxTransformer2DModel")
    with pytest.raises(ValueError, match=f"{component} of model .* is a FluxTransformer2DModel, but"):
        load_video_model(base)


def test_layers_that_the_config_does_not_have_are_refused(base):
    changed(base / "transformer", lambda state: state.update({"blocks.9.norm.weight": torch.ones(3)}))
    with pytest.raises(ValueError, match=r"no place for: blocks\.9\.norm\.weight"):
        load_video_model(base)


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("method", ["bitsandbytes", "gguf", "quanto", "torchao", "some_day"])
def test_a_quantised_base_names_the_library_that_is_absent(base, component, method, monkeypatch):
    monkeypatch.setattr("trainers.models.bases.installed", lambda library: False)
    written(base / component / "config.json", quantization_config={"quant_method": method, "load_in_4bit": True})
    with pytest.raises(ValueError, match=f"{component} of model .* is quantised by {method}.*pip install"):
        load_video_model(base)


@pytest.mark.parametrize("name", ["wan.safetensors", "wan.ckpt", "wan.gguf"])
def test_a_single_file_is_said_to_be_one(whole, tmp_path, name):
    shutil.copy(weights(whole / "wan-t2v" / "transformer"), tmp_path / name)
    with pytest.raises(ValueError, match=r"is a single file.*docs/models\.md") as raised:
        load_video_model(tmp_path / name)
    assert "does not exist" not in str(raised.value)
    assert ("quantised" in str(raised.value)) == name.endswith("gguf")


def test_a_single_file_becomes_a_base_as_the_guide_says(whole, tmp_path):
    from diffusers import WanPipeline, WanTransformer3DModel

    base = whole / "wan-t2v"
    file = shutil.copy(weights(base / "transformer"), tmp_path / "wan.safetensors")
    transformer = WanTransformer3DModel.from_single_file(str(file), config=str(base), subfolder="transformer")
    WanPipeline.from_pretrained(base, transformer=transformer).save_pretrained(tmp_path / "saved")
    one, other = load_video_model(base), load_video_model(tmp_path / "saved")
    for mine, theirs in zip(one.transformer.parameters(), other.transformer.parameters(), strict=True):
        assert (mine == theirs).all()


@pytest.mark.parametrize(("layout", "part"), [("a14b", "transformer_2"), ("i2v", "image_encoder")])
def test_a_second_expert_or_an_image_encoder_that_is_absent_is_named(tmp_path, layout, part):
    BY_NAME[f"wan-{layout}"].make(folder=tmp_path)
    written(tmp_path / "model_index.json", **{part: [None, None]})
    with pytest.raises(ValueError, match=f"needs {part}"):
        load_video_model(tmp_path)


def test_a_long_list_is_cut():
    assert listed("abcdef") == "a, b, c, d and 2 more"


@pytest.mark.parametrize(
    "name", ["tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"]
)
def test_a_tokenizer_or_a_scheduler_without_its_file_is_refused(base, name):
    (base / name).unlink()
    with pytest.raises(ValueError, match=f"model {base}.*(cannot be read|has no tokenizer_config)"):
        load_video_model(base)

from huggingface_hub import ModelCard

from trainers.run.model_card import add_held_out, model_card
from trainers.settings.oro import OROConfig

SETTINGS = {
    "model_name_or_path": "some-lab/falling-video", "recipe": "configs/recipes/gravity.yaml", "seed": 3,
    "max_steps": 60, "learning_rate": 1e-3, "num_inference_steps": 8, "guidance_scale": 1.0,
    "adapter_sigma_range": [0.0, 1.0],
}  # fmt: skip


def test_the_hub_reads_the_card():
    card = ModelCard(model_card(SETTINGS, pipeline="LTXImageToVideoPipeline", metrics={"reward": -0.25}))
    assert card.data.base_model == "some-lab/falling-video"
    assert card.data.library_name == "diffusers"
    assert card.data.pipeline_tag == "image-to-video"
    assert "lora" in card.data.tags
    assert 'LTXImageToVideoPipeline.from_pretrained("some-lab/falling-video")' in card.text
    assert "| seed | 3 |" in card.text
    assert "| reward | -0.25 |" in card.text
    assert "8 denoising steps and guidance 1" in card.text


def test_rewards_samples_and_the_second_expert_are_told():
    videos = ["eval/step_0/clips.mp4", "eval/step_50/clips.mp4"]
    text = model_card(SETTINGS, pipeline="WanPipeline", recipe="rewards:\n  gravity: 1\n", videos=videos, experts=2)
    card = ModelCard(text)
    assert "```yaml\nrewards:\n  gravity: 1\n```" in card.text
    assert all(f'src="{path}"' in card.text for path in videos)
    assert card.text.count("load_into_transformer_2=True") == 1
    plain = model_card(SETTINGS, pipeline="WanPipeline")
    assert "load_into_transformer_2" not in plain
    assert "## Samples" not in plain


def test_a_local_base_is_named_unless_it_is_pushed():
    local = SETTINGS | {"model_name_or_path": "data/drops/model"}
    assert ModelCard(model_card(local, pipeline="P")).data.base_model == "data/drops/model"
    assert ModelCard(model_card(local | {"push_to_hub": True}, pipeline="P")).data.base_model is None


def test_an_adapter_for_some_noise_levels_says_so():
    assert "noise levels" not in model_card(SETTINGS, pipeline="P").split("## Training")[0]
    early = model_card(SETTINGS | {"adapter_sigma_range": [0.8, 1.0]}, pipeline="P")
    assert "noise levels 0.8 to 1 alone" in early


def test_every_listed_setting_is_one_of_the_trainer():
    import dataclasses

    from trainers.run.model_card import TOLD

    assert set(TOLD) <= {field.name for field in dataclasses.fields(OROConfig)}  # pyright: ignore


def test_held_out_figures_replace_older_ones(tmp_path):
    (tmp_path / "README.md").write_text(model_card(SETTINGS, pipeline="P"))
    add_held_out(tmp_path, "| old | table |", picture="a.gif")
    add_held_out(tmp_path, "| new | table |", picture="a.gif")
    text = (tmp_path / "README.md").read_text()
    assert text.count("## Held out") == 1
    assert "old" not in text
    assert "| new | table |" in text
    assert "(a.gif)" in text
    assert ModelCard(text).data.library_name == "diffusers"

"""The guide's example is a reward as it stands, and trains."""

import re

import torch
from discs import free_fall, make_world

from rewards.recipe.file import read_recipe
from rewards.recipe.recipe import Recipe, load_recipe


def test_the_example_of_the_guide(root, tmp_path):
    guide = (root / "docs" / "rewards.md").read_text()
    python, recipe = (
        re.search(rf"```{language}\n(# {name}\n.*?)```", guide, re.DOTALL)[1]
        for language, name in (("python", "steady.py"), ("yaml", "steady.yaml"))
    )
    assert len([line for line in python.splitlines()[1:] if line.strip()]) <= 10
    (tmp_path / "steady.py").write_text(python)
    (tmp_path / "steady.yaml").write_text(recipe)
    assert load_recipe(tmp_path / "steady.yaml", for_gradient=True).terms[0].parameters == {"least_px": 0.5}
    steady = free_fall(frames=9, g_m_s2=0.0, start_m=(-0.8, 4.0, 1.0), velocity_m_s=(3.0, 0.0, 0.0))
    still = free_fall(frames=9, g_m_s2=0.0, start_m=(0.0, 4.0, 1.0))
    world = make_world(torch.cat((steady, free_fall(frames=9), still)))
    judge = Recipe(read_recipe(tmp_path / "steady.yaml"), world.instruments(), base=tmp_path)
    leaf = world.video.frames_BTCHW.clone().requires_grad_()
    result = judge.score(world.video.with_frames(leaf), grad=True)
    even, falling, at_rest = result.terms["steady"]
    assert even > -0.1 > falling and at_rest.isnan()
    (gradient,) = torch.autograd.grad(result.total_B.sum(), leaf)
    assert gradient.isfinite().all() and gradient[1].abs().sum() > 0


def test_the_gates_of_the_guide_are_a_recipe(root, tmp_path):
    guide = (root / "docs" / "rewards.md").read_text()
    gates = re.search(r"```yaml\n(gates:.*?)```", guide, re.DOTALL)[1]
    (tmp_path / "r.yaml").write_text(f"rewards: [{{name: gravity}}]\n{gates}")
    assert [gate.name for gate in read_recipe(tmp_path / "r.yaml").gates] == ["motion_gate", "observability_gate"]

"""Every reward ranks simulated violations of growing size, as the table of the guide says."""

import re

import pytest
from violations import CASES, correlation

from rewards.recipe.load import known_rewards


@pytest.mark.parametrize("name", CASES)
def test_a_larger_violation_scores_less(name, root):
    found = correlation(name)
    assert found >= 0.9
    row = re.search(rf"^\| `{name}` \| .* \| ([\d.]+) \|$", (root / "docs" / "rewards.md").read_text(), re.MULTILINE)
    assert row and float(row[1]) == pytest.approx(found, abs=0.006), "python tests/helpers/violations.py"


def test_no_reward_is_left_out():
    assert set(known_rewards()) - {"http"} <= set(CASES)

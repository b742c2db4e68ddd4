"""What the red team measured -> pairs, shares ranked rightly with their intervals, and tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch

from trainers.redteam.attacks import ATTACKS, LEVELS
from trainers.redteam.verdicts import names_of, recipe_verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A true clip and the same clip attacked, as a recipe judged them in one batch."""

    recipe: str
    attack: str
    strength: str
    clip: str
    through: bool
    true: float
    attacked: float
    measurable: bool
    """Whether the true clip could be measured."""

    @property
    def right(self) -> bool:
        return self.attacked < self.true

    @property
    def gain(self) -> float:
        return self.attacked - self.true


def pairs_of(records: list[dict[str, Any]], recipes: dict[str, Any]) -> list[Pair]:
    """Every pair whose attack changed the clip. A batch holds all true clips of a recipe and their attacked ones."""
    pairs: list[Pair] = []
    for stem, recipe in recipes.items():
        for through in (False, True):
            group = [record for record in records if (record["recipe"], record["through"]) == (stem, through)]
            if not group:
                continue
            keys = [tuple(key) for key in group[0]["variants"]]
            count = len(group)
            for place, (attack, strength) in list(enumerate(keys))[1:]:
                both = [*((record, 0) for record in group), *((record, place) for record in group)]
                values = {name: _column(both, name) for name in group[0]["values"]}
                seen = torch.tensor([_number(record["visibility"][at]) for record, at in both])
                total_B, measurable_B = recipe.total(values, seen)
                pairs += [
                    Pair(
                        recipe=stem, attack=attack, strength=strength, clip=record["clip"], through=through,
                        true=float(total_B[n]), attacked=float(total_B[count + n]), measurable=bool(measurable_B[n]),
                    )
                    for n, record in enumerate(group) if record["changed"][place]
                ]  # fmt: skip
    return pairs


def _column(both: Iterable[tuple[dict[str, Any], int]], name: str) -> torch.Tensor:
    return torch.tensor([_number(record["values"][name][at]) for record, at in both])


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927)."""
    if count == 0:
        return math.nan, math.nan
    z2, share = 1.96**2, right / count
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * count)) / count) / (1 + z2 / count)
    return middle - half, middle + half


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """Pairs of one recipe and attack at some strengths; NaN where there are too few.

    Args:
        right: pairs ranked rightly, of `count`.
        gain: mean gain by the attack.
        gain_se: its standard error over the scenes, of each of which all pairs count as one.
    """

    right: int
    count: int
    gain: float
    gain_se: float

    @property
    def share(self) -> float:
        return self.right / self.count if self.count else math.nan


def cell(pairs: Iterable[Pair]) -> Cell:
    """Pairs ranked rightly, and the mean gain by the attack, of those whose true clip could be measured."""
    pairs = [pair for pair in pairs if pair.measurable]
    gains = [pair.gain for pair in pairs]
    gain = sum(gains) / len(gains) if gains else math.nan
    of_scenes = [
        [pair.gain for pair in pairs if pair.clip == clip] for clip in dict.fromkeys(pair.clip for pair in pairs)
    ]
    # Each scene's part of the mean's deviation: scenes with more pairs weigh more.
    parts = [sum(value - gain for value in scene) / len(gains) for scene in of_scenes]
    count = len(parts)
    se = math.sqrt(count / (count - 1) * sum(part**2 for part in parts)) if count > 1 else math.nan
    return Cell(right=sum(pair.right for pair in pairs), count=len(pairs), gain=gain, gain_se=se)


def render(records: list[dict[str, Any]], recipes: dict[str, Any]) -> str:
    """A summary, and one table per recipe, in Markdown."""
    pairs = pairs_of(records, recipes)
    head = ["| recipe | clips | must lose, two stronger | 95 % interval | weakest family | largest mean gain |"]
    head.append("|---|---|---|---|---|---|")
    apart = ["Pairs that must lose at the two stronger strengths, apart:", ""]
    apart += ["| recipe | true clips | round trips |", "|---|---|---|"]
    body: list[str] = []
    for stem, recipe in recipes.items():
        own = [pair for pair in pairs if pair.recipe == stem]
        if own:
            decisive = _decisive(names_of(recipe), own)
            head.append(_summary(stem, recipe, own, decisive))
            shares = (_share(cell(pair for pair in decisive if pair.through == through)) for through in (False, True))
            apart.append(f"| {stem} | " + " | ".join(shares) + " |")
            body += _table(stem, recipe, own, decisive)
    return "\n".join([*head, "", *apart, "", *body])


def _decisive(names: list[str], pairs: list[Pair]) -> list[Pair]:
    """The pairs that must lose, at the two stronger strengths."""
    return [pair for pair in pairs if pair.strength != LEVELS[0] and recipe_verdict(names, pair.attack) == "lose"]


def _gain(result: Cell) -> str:
    return f"{result.gain:+.3f} ± {result.gain_se:.3f}"


def _share(result: Cell) -> str:
    return f"{result.right}/{result.count} = {result.right / result.count:.1%}" if result.count else "none"


def _summary(stem: str, recipe: Any, pairs: list[Pair], decisive: list[Pair]) -> str:
    """The recipe's line of the first table."""
    names, whole = names_of(recipe), cell(decisive)
    families = {name: cell(pair for pair in decisive if pair.attack == name) for name in ATTACKS}
    families = {name: result for name, result in families.items() if result.count}
    attacks = [name for name in ATTACKS if recipe_verdict(names, name) != "lose"]
    gains = {name: cell(pair for pair in pairs if pair.attack == name) for name in attacks}
    gains = {name: result for name, result in gains.items() if result.count}
    low, high = wilson(whole.right, whole.count)
    clips = {(pair.clip, pair.through) for pair in pairs}
    known = {(pair.clip, pair.through) for pair in pairs if pair.measurable}
    weakest = min(families, key=lambda name: families[name].share, default=None)
    best = max(gains, key=lambda name: gains[name].gain, default=None)
    least = "none" if weakest is None else f"{weakest} {families[weakest].share:.0%}"
    most = "none" if best is None else f"{best} {_gain(gains[best])}"
    counted = f"{len(known)} of {len(clips)} | {_share(whole)} | {low:.1%} to {high:.1%}"
    return f"| {stem} | {counted} | {least} | {most} |"


def _table(stem: str, recipe: Any, pairs: list[Pair], decisive: list[Pair]) -> list[str]:
    """The recipe's own table, one line per attack."""
    names, whole = names_of(recipe), cell(decisive)
    lines = [f"## {stem}", "", "| attack | verdict | " + " | ".join(LEVELS) + " | mean gain |"]
    lines.append("|---|---|" + "---|" * (len(LEVELS) + 1))
    for name in [name for name in ATTACKS if any(pair.attack == name for pair in pairs)]:
        own = [pair for pair in pairs if pair.attack == name]
        verdict = recipe_verdict(names, name)
        cells = [cell(pair for pair in own if pair.strength == level) for level in LEVELS]
        shown = " | ".join(f"{result.right}/{result.count}" for result in cells)
        word = verdict if verdict == "invariant" else f"must {verdict}"
        lines.append(f"| {name} | {word} | {shown} | {_gain(cell(own))} |")
    low, high = wilson(whole.right, whole.count)
    lines += ["", f"Must lose, two stronger strengths: {_share(whole)} ranked rightly ({low:.1%} to {high:.1%})."]
    wrong = [pair for pair in decisive if pair.measurable and not pair.right]
    if wrong:
        named = (f"{pair.attack} ({pair.strength}) of {pair.clip}{', round trip' * pair.through}" for pair in wrong)
        lines.append(f"Ranked wrongly: {'; '.join(named)}.")
    unknown = [pair for pair in pairs if not pair.measurable]
    if unknown:
        won = sum(pair.gain > 0 for pair in unknown)
        lines.append(f"Of {len(unknown)} pairs whose true clip cannot be measured the attack gains in {won}.")
    return [*lines, ""]

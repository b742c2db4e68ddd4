"""Encoded prompts that are kept to be used again, within a bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

Text = tuple[Tensor, ...]

KEPT_PROMPTS = 64
KEPT_BYTES = 256 * 2**20
"""What is kept at most: a prompt of Wan in bfloat16 has 4 MiB."""


class PromptCache:
    """What the text encoder said of the prompts that were asked for last.

    Args:
        prompts, size_bytes: what is kept at most; beyond it the prompt that was not asked for longest goes.
    """

    def __init__(self, prompts: int = KEPT_PROMPTS, size_bytes: int = KEPT_BYTES) -> None:
        self.prompts, self.size_bytes = prompts, size_bytes
        self._kept: dict[str, Text] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[str]:
        """The prompts, those that were asked for last at the end."""
        return iter(self._kept)

    def values(self) -> Iterator[Text]:
        return iter(self._kept.values())

    @property
    def held_bytes(self) -> int:
        return sum(part.untyped_storage().nbytes() for text in self._kept.values() for part in text)

    def get(self, prompts: Sequence[str], encode: Callable[[list[str]], Text]) -> list[Text]:
        """Each prompt's encoding, from `encode` for all together that are not kept."""
        new = sorted(set(prompts) - self._kept.keys())
        found = {text: self._kept.pop(text) for text in dict.fromkeys(prompts) if text in self._kept}
        if new:
            encoded = encode(new)  # cloned: a view would keep what was encoded beside it
            found |= {text: tuple(part[i].clone() for part in encoded) for i, text in enumerate(new)}
        self._kept |= found
        self._forget()
        return [found[text] for text in prompts]

    def _forget(self) -> None:
        held = self.held_bytes
        while self._kept and (len(self._kept) > self.prompts or held > self.size_bytes):
            oldest = self._kept.pop(next(iter(self._kept)))
            held -= sum(part.untyped_storage().nbytes() for part in oldest)

"""The finders that have a name, in the one table of them."""

from __future__ import annotations

from reward_physics.objects.appearance import Appearance
from reward_physics.objects.finder import Finder
from reward_physics.objects.moving import Motion
from reward_physics.objects.propagated import Propagated
from reward_physics.objects.segmenter import Segmenter

FINDERS: dict[str, Finder] = {kind.name: kind() for kind in (Segmenter, Propagated, Appearance, Motion)}
"""What `instruments.mask` may name."""


def finder_of(name: str | Finder) -> Finder:
    """The finder of that name, or the finder itself.

    Raises:
        ValueError: no finder has the name.
    """
    if isinstance(name, Finder):
        return name
    if name not in FINDERS:
        raise ValueError(f"instruments.mask must be one of {', '.join(FINDERS)}, got {name!r}")
    return FINDERS[name]

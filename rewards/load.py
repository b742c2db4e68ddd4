"""A reward by name: `gravity`, `my_package.rewards:hover` or `my_rewards.py:hover`. Nothing is registered."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NOT_REWARDS = {"recipe", "load", "combine", "score"}


def known_rewards() -> list[str]:
    """Short names: the modules of `rewards` that hold a function of their own name."""
    import rewards

    return sorted(module.name for module in pkgutil.iter_modules(rewards.__path__) if module.name not in _NOT_REWARDS)


def load_reward(spec: str, *, base: Path | None = None) -> Callable[..., Any]:
    """The callable that `spec` names.

    Args:
        spec: a short name, `package.module:attr`, or `file.py:attr`.
        base: folder that a file's relative path starts from (the recipe's); the working directory is tried next.

    Raises:
        ValueError: nothing of that name, with the nearest one; a module that cannot be imported; not callable.
    """
    where, colon, attribute = spec.rpartition(":")
    if not colon:
        known = known_rewards()
        if spec not in known:
            near = difflib.get_close_matches(spec, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ValueError(
                f"unknown reward {spec!r}: {hint} "
                "A reward of your own is `file.py:function` or `package.module:function`"
            )
        where, attribute = f"rewards.{spec}", spec
    if not where or not attribute:
        raise ValueError(f"reward {spec!r} must be `file.py:function` or `package.module:function`")
    module = _from_file(where, spec, base) if where.endswith(".py") else _from_package(where, spec)
    try:
        found = getattr(module, attribute)
    except AttributeError:
        names = [name for name in vars(module) if not name.startswith("_")]
        near = difflib.get_close_matches(attribute, names, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise ValueError(f"reward {spec!r}: {where} has no {attribute}{hint}") from None
    if not callable(found):
        raise ValueError(f"reward {spec!r} must be callable, got {type(found).__name__}")
    return found


def _from_file(where: str, spec: str, base: Path | None) -> Any:
    tried = [Path(where)] if Path(where).is_absolute() or base is None else [base / where, Path(where)]
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        raise ValueError(f"reward {spec!r}: no such file: {', '.join(str(path) for path in tried)}")
    name = f"_reward_file_{path.stem}_{abs(hash(path.resolve()))}"
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    # Dataclasses look their module up while it is being run.
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(f"reward {spec!r}: {path} cannot be run: {type(error).__name__}: {error}") from error
    return module


def _from_package(where: str, spec: str) -> Any:
    try:
        return importlib.import_module(where)
    except (Exception, SystemExit) as error:
        hint = f" (for a file write {where}.py:...)" if isinstance(error, ModuleNotFoundError) else ""
        raise ValueError(
            f"reward {spec!r}: module {where} cannot be imported: {type(error).__name__}: {error}{hint}"
        ) from error

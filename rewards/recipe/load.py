"""A reward by name: `gravity`, `my_package.rewards:hover` or `my_rewards.py:hover`. Nothing is registered.

A recipe is a text that may come from elsewhere, so a name in it runs only what was meant to be a reward: a file in the
recipe's folder, in the working directory or in a folder that REWARD_PHYSICS_PATH lists, or an installed module outside
the standard library; and in it a function, or a dataclass, that asks for an `observation`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reward_physics import beside
from rewards.recipe.wrappers import takes_observation

SEARCH_PATH = "REWARD_PHYSICS_PATH"
"""Environment variable: more folders that a recipe's reward files may lie in, separated as in PATH."""


@functools.cache
def modules_of_rewards() -> dict[str, str]:
    """The dotted module of each short name: those that define a reward, or a class, of their own name."""
    import rewards

    root, modules = Path(rewards.__path__[0]), {}
    for source in sorted(set(root.glob("*/*.py")) - set(root.glob("recipe/*.py"))):
        own = rf"^(?:def {source.stem}\(\s*observation\b|class {source.stem}\b)"
        if re.search(own, source.read_text(encoding="utf-8"), re.M):
            modules[source.stem] = f"rewards.{source.parent.name}.{source.stem}"
    return modules


def known_rewards() -> list[str]:
    """Short names of the rewards that ship."""
    return sorted(modules_of_rewards())


def load_reward(spec: str, *, base: Path | None = None) -> Callable[..., Any]:
    """The callable that `spec` names.

    Args:
        spec: a short name, `package.module:attr`, or `file.py:attr`.
        base: folder that a file's relative path starts from (the recipe's); the working directory is tried next, and
            a file elsewhere is refused. None: the caller vouches for the name, and any file will do.

    Raises:
        ValueError: nothing of that name, with the nearest one; a module that cannot be imported; a file outside the
            folders that a recipe may name; not callable; no reward.
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
        where, attribute = modules_of_rewards()[spec], spec
    if not where or not attribute:
        raise ValueError(f"reward {spec!r} must be `file.py:function` or `package.module:function`")
    if where.startswith("rewards."):  # recipes of before the rooms say `rewards.gravity:gravity`
        where = modules_of_rewards().get(where.removeprefix("rewards."), where)
    module = _from_file(where, spec, base) if where.endswith(".py") else _from_package(where, spec)
    try:
        reward = getattr(module, attribute)
    except AttributeError:
        names = [name for name in vars(module) if not name.startswith("_")]
        near = difflib.get_close_matches(attribute, names, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise ValueError(f"reward {spec!r}: {where} has no {attribute}{hint}") from None
    if not callable(reward):
        raise ValueError(f"reward {spec!r} must be callable, got {type(reward).__name__}")
    if inspect.isclass(reward) and not dataclasses.is_dataclass(reward):
        raise ValueError(f"reward {spec!r} is a class: make it a frozen dataclass with __call__(self, observation)")
    if not takes_observation(reward):
        raise ValueError(
            f"reward {spec!r} must be a function whose first parameter is called `observation` "
            "(or one in TRL's manner, of `prompts` and `completions`)"
        )
    return reward


def _from_file(where: str, spec: str, base: Path | None) -> Any:
    path = _find(where, spec, base)
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


def _find(where: str, spec: str, base: Path | None) -> Path:
    """The file, which lies in a folder that the recipe may name files of, also once links are followed."""
    extra_folders = [Path(folder) for folder in os.environ.get(SEARCH_PATH, "").split(os.pathsep) if folder]
    roots = [folder for folder in (base, Path(), *extra_folders) if folder is not None]
    tried = beside.places(where, base)
    tried += [] if tried[0].is_absolute() and len(tried) == 1 else [folder / where for folder in extra_folders]
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        raise ValueError(f"reward {spec!r}: no such file: {', '.join(str(path) for path in tried)}")
    inside = any(path.resolve().is_relative_to(root.resolve()) for root in roots)
    if base is not None and not inside:
        raise ValueError(
            f"reward {spec!r}: {path.resolve()} lies outside the recipe's folder and the working directory: move it "
            f"there, name its folder in the environment variable {SEARCH_PATH}, or install it as a package"
        )
    return path


def _from_package(where: str, spec: str) -> Any:
    if where.split(".")[0] in sys.stdlib_module_names:
        raise ValueError(
            f"reward {spec!r}: {where} belongs to Python itself and holds no rewards: name a module of yours"
        )
    try:
        return importlib.import_module(where)
    except (Exception, SystemExit) as error:
        hint = f" (for a file write {where}.py:...)" if isinstance(error, ModuleNotFoundError) else ""
        raise ValueError(
            f"reward {spec!r}: module {where} cannot be imported: {type(error).__name__}: {error}{hint}"
        ) from error

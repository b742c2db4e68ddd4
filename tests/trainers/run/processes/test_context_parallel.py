"""Processes that share a clip's tokens: what is refused. That the gradient holds is in tests/distributed."""

import pytest

from trainers import rwr
from trainers.models.tiny.wan import tiny_wan
from trainers.oro import train
from trainers.settings.regression import RWRConfig


def test_where_it_does_not_hold_it_is_refused(toy_config, base, brightness, tmp_path):
    with pytest.raises(ValueError, match="must be 1 for LTXVideoTransformer3DModel: with gradient it holds for Wan"):
        train(toy_config(context_parallel_size=2), recipe=brightness())
    with pytest.raises(ValueError, match="must be 1 for RWR"):
        rwr.train(RWRConfig(**base | {"context_parallel_size": 2}), recipe=brightness())
    tiny_wan(tmp_path / "wan")
    alone = toy_config(model_name_or_path=str(tmp_path / "wan"), image_conditioning=False, context_parallel_size=2)
    with pytest.raises(ValueError, match="must divide the 1 processes, got 2: launch a multiple of it"):
        train(alone, recipe=brightness())

"""Columns of arrays in Arrow: nested lists, and the types of `datasets` over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

compute: Any = pyarrow.compute
"""Its functions are made at import, where no type checker sees them."""

ARRAYS = ("frames", "mask", "depth_m", "flow_px", "poses", "intrinsics", "world_from_camera")
"""Columns that are arrays also where a file does not type them as such."""


def is_array(field: pa.Field) -> bool:
    """Whether a column holds arrays of two axes or more."""
    nested = pa.types.is_nested(field.type) and not pa.types.is_struct(field.type)
    return isinstance(field.type, pa.BaseExtensionType) or (nested and field.name in ARRAYS)


def array_of(column: Any) -> np.ndarray:
    """The array of a column of one row.

    Raises:
        pa.ArrowInvalid: it is missing, or its lists have several lengths.
    """
    values, shape = getattr(column, "storage", column), []
    while hasattr(values.type, "value_type"):
        lengths = compute.min_max(compute.list_value_length(values)).as_py()
        if values.null_count or lengths["min"] != lengths["max"] or lengths["min"] is None:
            raise pa.ArrowInvalid("a row's array is missing, empty or ragged")
        shape.append(lengths["min"])
        values = values.flatten()
    return np.array(values.to_numpy(zero_copy_only=False)).reshape(shape)

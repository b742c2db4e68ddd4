"""The Parquet files of a split, whose pixels stay on the disk: a process holds the row that it reads.

A file of one row a group is read where it lies. Of another, whose groups would be unpacked whole for each row, the
arrays are copied row by row, compressed, to a temporary file without a name when the first of them is asked for.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.arrays import array_of, is_array
from data.together import check_together

Place = tuple[int, int, np.dtype, tuple[int, ...]]
"""Where an array lies in the scratch file, how many bytes it takes there, its type and its shape."""


class Split:
    """Rows of Parquet files, in the order of the files. A row is a dict of numbers, texts and NumPy arrays.

    Args:
        files: of the same columns and sizes.
        columns: those to read; by default all.
        without: columns to leave out.

    Raises:
        ValueError: a file that cannot be read, or that does not belong to the others.
    """

    def __init__(
        self, files: Sequence[Path], columns: Sequence[str] | None = None, without: Sequence[str] = ()
    ) -> None:
        scratch = Scratch()
        parts = [PartOfSplit(path, columns, without, scratch) for path in files]
        for part in parts[1:]:
            check_together(parts[0].path, parts[0].schema, part.path, part.schema)
        self.column_names: list[str] = parts[0].schema.names
        self.arrays: list[str] = parts[0].arrays
        table = pa.concat_tables([part.light() for part in parts], promote_options="permissive")
        stamps = [f"{path}:{path.stat().st_mtime_ns}" for path in files]
        key = "|".join([*stamps, str(columns), str(without)])
        fingerprint = hashlib.sha256(key.encode()).hexdigest()[:16]  # by default `datasets` hashes every byte
        table = table.replace_schema_metadata(parts[0].schema.metadata)
        self._light = datasets.Dataset(table, fingerprint=fingerprint).with_format("numpy")
        self._places = [(part, row) for part in parts for row in range(part.num_rows)]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        """The row of a number, the column of a name, or a slice of rows as columns."""
        if isinstance(key, slice):
            rows = [self[index] for index in range(*key.indices(len(self)))]
            return {name: [row[name] for row in rows] for name in self.column_names}
        if not isinstance(key, str):
            return self._row(range(len(self))[key])
        if key in self.arrays:
            return [part.read(row, [key])[key] for part, row in self._places]
        return self._light[key]

    def select(self, indices: Sequence[int]) -> Split:
        """Some of the rows, in this order."""
        chosen: Split = object.__new__(Split)
        chosen.column_names, chosen.arrays = self.column_names, self.arrays
        chosen._light = self._light.select(list(indices))
        chosen._places = [self._places[index] for index in indices]
        return chosen

    def _row(self, index: int) -> dict[str, Any]:
        part, row = self._places[index]
        found = part.read(row, self.arrays)
        if len(self.arrays) < len(self.column_names):
            found |= self._light[index]
        return {name: found[name] for name in self.column_names}


class Scratch:
    """Packed arrays in a temporary file, which is open and there as long as the rows."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._end = 0
        self._codec = pa.Codec("zstd", compression_level=1)

    def add(self, array: np.ndarray) -> Place:
        """Put an array behind the others."""
        packed = self._codec.compress(np.ascontiguousarray(array).tobytes(), asbytes=True)
        try:
            self._file.write(packed)
            self._file.flush()
        except OSError as error:
            raise ValueError(
                f"the folder of temporary files {tempfile.gettempdir()} has no room for the clips ({error}): name "
                "another one in TMPDIR"
            ) from error
        self._end += len(packed)
        return self._end - len(packed), len(packed), array.dtype, array.shape

    def read(self, place: Place) -> np.ndarray:
        """The array that was put there."""
        start, length, dtype, shape = place
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        values = bytearray(self._codec.decompress(os.pread(self._file.fileno(), length, start), size, asbytes=True))
        return np.frombuffer(values, dtype=dtype).reshape(shape)


class PartOfSplit:
    """One Parquet file of a split.

    Args:
        scratch: where its arrays go if a group holds several rows.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None, without: Sequence[str], scratch: Scratch) -> None:
        self.path, self._scratch = path, scratch
        try:
            with pq.ParquetFile(path) as file:
                self._metadata, whole = file.metadata, file.schema_arrow
        except (pa.ArrowInvalid, OSError) as error:
            raise unreadable(path, error) from error
        kept = [name for name in whole.names if (columns is None or name in columns) and name not in without]
        self.schema = pa.schema([whole.field(name) for name in kept], metadata=whole.metadata)
        self.arrays = [name for name in kept if is_array(whole.field(name))]
        self.num_rows: int = self._metadata.num_rows
        self._staged: list[dict[str, Place]] = []

    def light(self) -> pa.Table:
        """The columns that are no arrays."""
        names = [name for name in self.schema.names if name not in self.arrays]
        try:
            with self._open() as file:
                return file.read(columns=names).select(names)
        except (pa.ArrowInvalid, OSError) as error:
            raise unreadable(self.path, error) from error

    def read(self, row: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The arrays of a row.

        Raises:
            ValueError: they cannot be read.
        """
        if not names:
            return {}
        try:
            if self._metadata.num_row_groups == self.num_rows:
                with self._open() as file:
                    group = file.read_row_group(row, columns=list(names))
                return {name: array_of(group[name].combine_chunks()) for name in names}
            if not self._staged:
                self._stage()
        except (pa.ArrowInvalid, OSError) as error:
            raise unreadable(self.path, error) from error
        return {name: self._scratch.read(self._staged[row][name]) for name in names}

    def _stage(self) -> None:
        """Copy the arrays to the scratch file, a few rows in memory at a time."""
        staged = []
        with self._open() as file:
            for batch in file.iter_batches(batch_size=1, columns=self.arrays):
                for row in range(len(batch)):
                    arrays = {name: array_of(batch[name].slice(row, 1)) for name in self.arrays}
                    staged.append({name: self._scratch.add(array) for name, array in arrays.items()})
        self._staged = staged

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.path, metadata=self._metadata, pre_buffer=False, buffer_size=1 << 16)


def unreadable(path: Path, error: Exception) -> ValueError:
    """That a file is no Parquet file of clips."""
    return ValueError(f"{path}: expected a Parquet file of clips, could not read it ({error})")

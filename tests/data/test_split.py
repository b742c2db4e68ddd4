"""The rows of a split are what the files hold, and their pixels stay on the disk."""

import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import write
from data.rows import SHIPPED, load_split
from data.split import Split
from data.write import write_shard


def row(number, side_px=16, frames=4, **more):
    """A clip whose pixels are its number."""
    known = {"id": f"c{number}", "seed": number, "caption": f"clip {number}", "fps": 16.0}
    return known | {"frames": np.full((frames, side_px, side_px, 3), number, np.uint8)} | more


def test_rows_are_those_that_the_library_reads():
    file = sorted((SHIPPED / "validation").glob("*.parquet"))[0]
    expected, found = datasets.Dataset(pq.read_table(file)).with_format("numpy"), Split([file])
    assert found.column_names == expected.column_names
    assert len(found) == len(expected)
    for index in (0, 7, len(expected) - 1):
        ours, theirs = found[index], expected[index]
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value)
    assert list(found["kind"]) == list(expected["kind"])
    np.testing.assert_array_equal(found.select([3, 1])[1]["frames"], expected[1]["frames"])
    assert found[2:4]["id"] == [expected[2]["id"], expected[3]["id"]]
    with pytest.raises(IndexError):
        _ = found[len(expected)]


@pytest.mark.parametrize("large", [1, 10**9], ids=["a group a clip", "one group"])
def test_both_layouts_of_a_file_read_alike(large, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "LARGE_CLIP_BYTES", large)
    write_shard([row(number) for number in range(9)], tmp_path / "a.parquet")
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == (9 if large == 1 else 1)
    table = Split([tmp_path / "a.parquet"])
    assert [int(table[index]["frames"].max()) for index in (8, 0, 5)] == [8, 0, 5]
    assert table[3]["frames"].shape == (4, 16, 16, 3)
    assert table[3]["frames"].flags.writeable


def test_lists_without_types_are_arrays_too(tmp_path):
    frames = [np.full((2, 3, 4, 3), number, np.uint8).tolist() for number in range(3)]
    plain = pa.table({"frames": pa.array(frames, pa.list_(pa.list_(pa.list_(pa.list_(pa.uint8())))))})
    pq.write_table(plain, tmp_path / "a.parquet")
    table = Split([tmp_path / "a.parquet"])
    assert table[2]["frames"].shape == (2, 3, 4, 3)
    assert table[2]["frames"].dtype == np.uint8
    frames[1][0] = frames[1][0][:2]
    ragged = pa.table({"frames": pa.array(frames, plain.schema.field("frames").type)})
    pq.write_table(ragged, tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: expected a Parquet file of clips.*ragged"):
        _ = Split([tmp_path / "b.parquet"])[0]


MEMORY = """
import sys, pyarrow
from data.rows import load_split
table = load_split("train", sys.argv[1])
assert [int(row["frames"].max()) for row in table] == list(range(len(table)))
print(pyarrow.default_memory_pool().max_memory(), sum(row["frames"].nbytes for row in table))
"""


def test_a_process_holds_few_rows_at_a_time(tmp_path):
    """All rows are read, one by one: Arrow must at no time hold a third of their pixels."""
    (tmp_path / "train").mkdir()
    write_shard([row(number, side_px=128, frames=16) for number in range(60)], tmp_path / "train" / "a.parquet")
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    held, pixels = map(int, done.stdout.split())
    assert held < pixels / 3, f"{held / 1e6:.0f} MB of {pixels / 1e6:.0f} MB"


def test_files_that_do_not_belong_together_are_named(tmp_path):
    for name, rows in {
        "columns": [row(1), row(2, px_per_m=20.0)],
        "size": [row(1), row(2, side_px=32)],
        "frames": [row(1), row(2, frames=5)],
    }.items():
        (tmp_path / name).mkdir()
        for letter, one in zip("ab", rows, strict=True):
            write_shard([one], tmp_path / name / f"{letter}.parquet", world="drops")
    for split, said in {
        "columns": r"columns/b\.parquet: .*a\.parquet lacks px_per_m, which b\.parquet has",
        "size": r"size/b\.parquet: .*frames are 4 x 32 x 32 x 3 and those of a\.parquet 4 x 16 x 16 x 3",
        "frames": r"frames/b\.parquet: .*5 x 16 x 16 x 3",
    }.items():
        with pytest.raises(ValueError, match=said) as caught:
            load_split(split, tmp_path)
        assert len(str(caught.value)) < 400


def test_full_disks_are_told(tmp_path, monkeypatch):
    write_shard([row(1), row(2)], tmp_path / "a.parquet")
    table = Split([tmp_path / "a.parquet"])

    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    part, _ = table._places[0]
    monkeypatch.setattr(part._scratch, "_file", Full())
    with pytest.raises(ValueError, match=r"no room for the clips .*name another one in TMPDIR"):
        _ = table[0]

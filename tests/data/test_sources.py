"""What a dataset may be, and what its rows must have."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.sources import check_rates, check_scales, completed, open_split
from data.split import Split
from data.write import write_shard


def clip(number, **more):
    known = {"id": f"c{number}", "caption": "a ball falls", "fps": 16.0, "frames": np.zeros((9, 8, 8, 3), np.uint8)}
    return known | more


def written(folder, *rows):
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(list(rows), folder / "a.parquet")
    return folder / "a.parquet"


def test_a_folder_of_splits_or_a_file(tmp_path):
    file = written(tmp_path / "train", clip(0), clip(1))
    assert len(open_split(str(tmp_path), "train")) == 2
    assert len(open_split(str(file), "whatever")) == 2
    (tmp_path / "p.txt").write_text("a cup drops\n")
    assert open_split(str(tmp_path / "p.txt"), "train")["caption"][0] == "a cup drops"
    with pytest.raises(ValueError, match="does not exist"):
        open_split(str(tmp_path / "nowhere"), "train")


def test_rows_get_the_names_of_ours(tmp_path):
    pq.write_table(pa.table({"prompt": ["a cup drops"]}), tmp_path / "a.parquet")
    row = completed(open_split(str(tmp_path / "a.parquet"), "train")[0], "train", 0)
    assert (row["id"], row["seed"], row["caption"]) == ("train-0", 0, "a cup drops")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["x"]}, "must have a column `caption` or `prompt`, got text"),
        ({"caption": ["x"], "frames": [[[[[1, 2, 3]]]]]}, "must have a column `fps`"),
        ({"caption": ["x"], "intrinsics": [[[1.0]]]}, "intrinsics alone"),
        ({"caption": ["x"], "scene": ["{}"]}, "lacks at_rest"),
    ],
)
def test_columns_that_are_missing_are_named(columns, said, tmp_path):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=said):
        open_split(str(tmp_path / "a.parquet"), "train")


def test_a_clip_without_the_scale_of_the_others_is_named(tmp_path):
    whole = Split([written(tmp_path / "a", clip(0, px_per_m=20.0), clip(1, px_per_m=30.0))])
    check_scales("train", whole)
    for bad in (None, 0.0, float("nan")):
        table = Split([written(tmp_path / "b", clip(0, px_per_m=20.0), clip(1, px_per_m=bad))])
        with pytest.raises(ValueError, match=r"split train: px_per_m must be > 0 for every clip, got .* for clip c1"):
            check_scales("train", table)
    check_scales("train", Split([written(tmp_path / "c", clip(0, px_per_m=float("nan")))]))


def test_clips_of_several_rates_are_checked_before_a_run(tmp_path):
    table = Split([written(tmp_path / "a", clip(0), clip(1, fps=24.0))])
    with pytest.raises(ValueError, match="clips of 24 and of 16 frames a second, which give 3 and 5 frames at fps 8"):
        check_rates("train", table, 8.0, None)
    check_rates("train", table, 8.0, 3)
    with pytest.raises(ValueError, match="fps 12 does not fit the 16 frames a second of clip c0"):
        check_rates("train", table, 12.0, None)

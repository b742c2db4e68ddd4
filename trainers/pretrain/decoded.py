"""Rendered clips as a video model's autoencoder shows them: `python -m trainers.pretrain.decoded --data FOLDER`.

Every clip of the folder is encoded and decoded; its truth stays as it was. The estimators learn from both: they watch
generated clips, whose blur and flicker are the decoder's. A file that exists is kept, so a stopped command goes on.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from tqdm import tqdm

from data.rows import collate, load_split
from data.write import write_shard
from trainers.models import load_video_model, round_trip
from trainers.settings.options import FlagParser, exit_with_one_line


def main(arguments: list[str] | None = None) -> None:
    """Write DATA_decoded/*.parquet, a file for each of DATA/*.parquet."""
    parser = FlagParser(prog="python -m trainers.pretrain.decoded", description=__doc__)
    add = parser.add_argument
    add("--data", default="data/rendered/varied", help="folder of clips (default: %(default)s)")
    add("--scenes", type=int, help="scenes from the folder's beginning; by default all")
    add("--model_name_or_path", default="data/drops/model", help="pipeline of the autoencoder (default: %(default)s)")
    add("--num_threads", type=int, default=os.cpu_count() or 1, help="threads to compute with (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.num_threads)
    source = Path(options.data)
    table = load_split(source.name, source.parent)
    model = load_video_model(options.model_name_or_path)
    folder = source.with_name(source.name + "_decoded")
    folder.mkdir(parents=True, exist_ok=True)
    count = min(len(table), options.scenes or len(table))
    for start in tqdm(range(0, count, 100), desc=folder.name, unit="file"):
        file = folder / f"clips-{start:07d}.parquet"
        if file.exists():
            continue
        rows = [table[index] for index in range(start, min(start + 100, count))]
        for row in rows:
            row["impact_times_s"] = list(row["impact_times_s"])
        for first in range(0, len(rows), 10):
            batch_rows = rows[first : first + 10]
            batch = collate(batch_rows)
            decoded = round_trip(model, batch["frames_BTCHW"], batch["caption"], batch["fps_B"])
            frames = (decoded * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
            for row, frames_THW3 in zip(batch_rows, frames, strict=True):
                row["frames"] = frames_THW3
        write_shard(rows, file)


if __name__ == "__main__":
    exit_with_one_line(main)

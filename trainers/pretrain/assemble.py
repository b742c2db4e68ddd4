"""Put the embedded video model together: `python -m trainers.pretrain.assemble --output_dir data/drops/model`.

Saves the pipeline that `trainers.pretrain.video` left, transformer and autoencoder in half precision (they load as
float32 by default), with the commands that made both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo, LTXPipeline


def main(arguments: list[str] | None = None) -> None:
    """Check that the two trainings belong together, then write the pipeline beside its place and rename it."""
    parser = argparse.ArgumentParser(
        prog="python -m trainers.pretrain.assemble",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--pipeline", default="runs/pretrain/video/pipeline", help="what pretrain.video wrote (default: %(default)s)")
    add(
        "--autoencoder",
        default="runs/pretrain/autoencoder",
        help="the autoencoder it was trained on (default: %(default)s)",
    )
    add("--output_dir", required=True, help="folder of the pipeline; replaced where it exists")
    options = parser.parse_args(arguments)
    pipeline: Any = LTXPipeline.from_pretrained(options.pipeline, dtype=torch.float32)
    autoencoder: Any = AutoencoderKLLTXVideo.from_pretrained(options.autoencoder, dtype=torch.float32)
    theirs = autoencoder.state_dict()
    if not all(torch.equal(value, theirs[name]) for name, value in pipeline.vae.state_dict().items()):
        parser.error(
            f"--autoencoder {options.autoencoder} must be what {options.pipeline} was trained on, and is another: "
            "name that one, whose training.json is to be kept"
        )
    output = Path(options.output_dir)
    temporary = output.with_name(output.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    for part in (pipeline.transformer, pipeline.vae):  # transformers would load a half text encoder as half
        part.half()
    pipeline.save_pretrained(temporary)
    training = {
        name: json.loads(path.read_text())
        for name, path in {
            "video": Path(options.pipeline) / "training.json",
            "autoencoder": Path(options.autoencoder) / "training.json",
        }.items()
    }
    (temporary / "training.json").write_text(json.dumps(training, indent=2) + "\n")
    shutil.rmtree(output, ignore_errors=True)
    os.replace(temporary, output)
    print(f"saved in {output}: {sum(file.stat().st_size for file in output.rglob('*') if file.is_file()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

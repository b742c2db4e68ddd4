"""Clips as folders of pictures, as cameras and editors leave them."""

from pathlib import Path

from PIL import Image


def write_frames(folder, frames_TCHW):
    """Write a clip in [0, 1] as 0000.png, 0001.png, ... in a new folder."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    for index, frame_CHW in enumerate(frames_TCHW):
        pixels = (frame_CHW.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")
    return folder

"""The finder of a latent probe: positions read off the latents, and a mask drawn around them.

Axes: B clips, T frames, N objects, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.grid import disc, ellipse, pixel_grid
from reward_physics.objects.finder import Clips, Finder, Found, Measurements, Places, Positions, reasons_of_known


class Probed(Finder):
    """What the instruments' probe says of the latents. No frame is asked for.

    The object of `find` is the probe's first. The order of the probe's objects is that of `Video.object_masks_BNHW`,
    where the clips have them.
    """

    name = "probe"
    description = "an ellipse around the place that the latent probe names"
    needs = ("positions",)
    shared = ()

    def find(self, seen: Measurements) -> Found:
        return _drawn(seen.positions[0], seen.video, [None] * seen.video.batch_size)

    def find_all(self, seen: Measurements) -> list[Found]:
        if seen.video.object_masks_BNHW is not None:
            return seen.known_objects
        return [_drawn(path, seen.video, [None] * seen.video.batch_size) for path in seen.positions]

    def find_known(self, seen: Measurements, first_BNHW: Tensor) -> list[Found]:
        known, paths = first_BNHW.shape[1], seen.positions
        if len(paths) < known:
            raise ValueError(
                f"instruments.probe sees {len(paths)} objects, but the clips have the first masks of {known}: give a "
                "probe that sees as many, or fewer object masks"
            )
        reasons = reasons_of_known(first_BNHW)
        return [_drawn(path, seen.video, why) for path, why in zip(paths[:known], reasons, strict=True)]


def _drawn(path: Positions, video: Clips, reasons: list[str | None]) -> Found:
    """The object with its mask, an ellipse as bright as the object is visible, and windows that hold it."""
    uv_HW2 = pixel_grid(video.height_px, video.width_px, like=path.centre_BT2)
    shape_BT = path.visible_BT.shape
    outline = ellipse(path.centre_BT2.flatten(0, 1), path.half_extent_BT2.flatten(0, 1), uv_HW2)
    present = path.visible_BT.detach() > 0.4
    centre, longest = path.centre_BT2.detach(), path.half_extent_BT2.detach().amax(-1)
    window = disc(centre.flatten(0, 1), uv_HW2, 1.1 * longest.flatten() + 0.75).unflatten(0, shape_BT)
    seen_longest = torch.where(present, longest, torch.nan).nanmedian(1).values
    return Found(
        mask_BTHW=outline.unflatten(0, shape_BT) * path.visible_BT[..., None, None],
        reasons=reasons,
        places=Places(
            window_BTHW=window * present[..., None, None],
            centre_BT2=centre,
            radius_B=seen_longest.nan_to_num(1.0).clamp(min=1.0),
            present_BT=present,
        ),
        positions=path,
    )

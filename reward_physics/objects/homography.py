"""Camera motion taken out of a clip: every frame registered to a reference frame by its background, and warped to it.

The background is registered directly on its brightness, coarse to fine, by Gauss-Newton steps reweighted so that what
moves by itself does not count. The simplest motion that explains the frames is taken: none, a shift, a similarity, a
homography; a richer one only when it leaves clearly less, since on a plain wall it would follow the noise.

Axes: T frames, C colours, H rows, W columns, K parameters, M pixels.

Reference: Baker and Matthews, "Lucas-Kanade 20 Years On: A Unifying Framework", IJCV 56(3), 2004, the inverse
compositional algorithm with a robust error function.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_physics.grid import pixel_grid

WORKING_SIDE_PX = 256
_BLURRED_TOGETHER = 8
_LEVELS = 4
_STEPS = 12
_WORTH_IT = 0.1
"""A richer motion must explain this share of what the simpler one leaves, in most parts of the picture."""

_PARTS = 8
_NOISE = 0.0015
_LEAST_SLOPE = 0.01
"""Parts of the picture, a side; the difference that says nothing; the slope (per working px) that is an edge."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraMotion:
    """How the camera moved against a reference frame.

    Args:
        frame_from_reference_T33: maps homogeneous pixels of the reference frame to each frame; detached.
        kind: `static`, `shift`, `similarity` or `homography`.
        largest_px: how far a corner of the picture moves at most.
        overlap: least share of the reference frame that a frame still shows.
    """

    frame_from_reference_T33: Tensor
    kind: str
    largest_px: float
    overlap: float


@torch.no_grad()
def camera_motion(frames_TCHW: Tensor, *, reference: int | None = None) -> CameraMotion:
    """Register every frame to the reference frame (the middle one).

    The kinds are tried from the simplest, on a few frames; the clip is then registered with the one chosen.
    """
    frames, (height, width) = len(frames_TCHW), frames_TCHW.shape[-2:]
    middle = frames // 2 if reference is None else reference
    scale = min(1.0, WORKING_SIDE_PX / max(height, width))
    size = (max(16, round(height * scale)), max(16, round(width * scale)))
    grey = frames_TCHW.detach().float().mean(dim=1, keepdim=True)
    grey = F.interpolate(grey, size=size, mode="bilinear", antialias=True) if size != (height, width) else grey
    probes = sorted({round(share * (frames - 1)) for share in (0, 0.25, 0.5, 0.75, 1)} - {middle})
    if not probes:
        probes = [middle]
    pyramid = _pyramid(grey, sorted({middle, *probes}))
    kind, left = "static", _misfit(pyramid, middle, {t: torch.eye(3, device=grey.device) for t in probes})
    for richer in ("shift", "similarity", "homography"):
        homographies = _register(pyramid, middle, richer, probes)
        misfit = _misfit(pyramid, middle, homographies)
        # A part that nothing is left of already votes against a richer motion.
        if ((misfit + _NOISE) / (left + _NOISE)).median() < 1 - _WORTH_IT:
            kind, left = richer, misfit
    motion = torch.eye(3, dtype=torch.float64, device=grey.device).repeat(frames, 1, 1)
    if kind != "static":
        pyramid = _pyramid(grey, range(frames))
        homographies = _register(pyramid, middle, kind, range(frames))
        motion[list(homographies)] = torch.stack(list(homographies.values())).double()
    to_working = torch.diag(motion.new_tensor([size[1] / width, size[0] / height, 1.0]))
    motion = torch.linalg.inv(to_working) @ motion @ to_working
    return CameraMotion(
        frame_from_reference_T33=motion.to(frames_TCHW),
        kind=kind,
        largest_px=_corner_shift(motion, height, width),
        overlap=float(_inside(motion, 48, 48, height, width).float().mean(dim=(1, 2)).min()),
    )


def stabilised(frames_TCHW: Tensor, motion: CameraMotion) -> Tensor:
    """Frames as the reference frame's camera would have seen them.

    Where a frame shows nothing, the median of those that do. Differentiable in the frames; the motion is taken as it
    is.
    """
    height, width = frames_TCHW.shape[-2:]
    if motion.kind == "static":
        return frames_TCHW
    grid = _warped(motion.frame_from_reference_T33.to(frames_TCHW), height, width, height, width)
    seen = ((grid > 0.5) & (grid < grid.new_tensor([width - 0.5, height - 0.5]))).all(dim=-1)[:, None]
    warped = _sample(frames_TCHW, grid)
    with torch.no_grad():
        plate = torch.nan_to_num(torch.where(seen, warped, torch.nan).nanmedian(dim=0).values)
    return torch.where(seen, warped, plate)


def _register(pyramid: list[Tensor], reference: int, kind: str, frames) -> dict[int, Tensor]:
    """Homography from the reference to each frame, every one started from its neighbour's."""
    homographies = {reference: torch.eye(3, device=pyramid[0].device)}
    for t in sorted(frames, key=lambda t: abs(t - reference)):
        if t == reference:
            continue
        nearest = min(homographies, key=lambda s: abs(s - t))
        homographies[t] = _align(pyramid, reference, t, homographies[nearest], kind)
    return {t: h for t, h in homographies.items() if t in set(frames)}


def _align(pyramid: list[Tensor], reference: int, t: int, start_33: Tensor, kind: str) -> Tensor:
    """Coarse to fine from a start."""
    h = start_33
    for level in reversed(range(len(pyramid))):
        h = _at_level(_refine(pyramid[level], reference, t, _at_level(h, level), kind), -level)
    return h


def _refine(images_T1HW: Tensor, reference: int, t: int, h_33: Tensor, kind: str) -> Tensor:
    height, width = images_T1HW.shape[-2:]
    template, image = images_T1HW[reference], images_T1HW[t : t + 1]
    jacobian_MK = _steepest(template[0], kind)
    unit = _normaliser(template)
    for _ in range(_STEPS):
        grid = _warped(h_33[None], height, width, height, width)
        inside = ((grid > 0.5) & (grid < grid.new_tensor([width - 0.5, height - 0.5]))).all(-1).flatten()
        residual_M = (_sample(image, grid)[0, 0] - template[0]).flatten()
        weight_M = _tukey(residual_M, inside)
        weighted = jacobian_MK * weight_M[:, None]
        normal = weighted.mT @ jacobian_MK
        normal = normal + 1e-4 * normal.diagonal().mean().clamp(min=1e-9) * torch.eye(len(normal), device=normal.device)
        delta = torch.linalg.solve(normal, weighted.mT @ residual_M)
        step = torch.linalg.inv(unit) @ torch.linalg.matrix_exp(_generator(delta, kind)) @ unit
        h_33 = h_33 @ torch.linalg.inv(step)
        h_33 = h_33 / h_33[2, 2]
        if delta.abs().max() < 1e-5:
            break
    return h_33


def _misfit(pyramid: list[Tensor], reference: int, homographies: dict[int, Tensor]) -> Tensor:
    """Difference to the reference at the edges of every part of the picture that has some, where a shift would show.

    One number per part, the mean over frames of the robust difference: a part that moves by itself counts once, however
    strong its edges are.
    """
    images = pyramid[0]
    height, width = images.shape[-2:]
    template = images[reference, 0]
    slope = torch.hypot(*torch.gradient(template))
    differences = []
    for t, h in homographies.items():
        grid = _warped(h[None], height, width, height, width)
        difference = _sample(images[t : t + 1], grid)[0, 0] - template
        differences.append((difference - difference.median()).abs())
    difference = torch.stack(differences)
    left = []
    for rows in torch.arange(height, device=images.device).chunk(_PARTS):
        for columns in torch.arange(width, device=images.device).chunk(_PARTS):
            part = slope[rows[:, None], columns]
            edges = part >= part.flatten().quantile(0.8).clamp(min=_LEAST_SLOPE)
            if edges.sum() >= 8:
                left.append(difference[:, rows[:, None], columns][:, edges].median(dim=1).values.mean())
    return torch.stack(left) if left else images.new_zeros(1)


_PARAMETERS = {"shift": 2, "similarity": 4, "homography": 8}


def _generator(delta_K: Tensor, kind: str) -> Tensor:
    """The 3 x 3 matrix whose exponential is the warp, in coordinates centred on the picture."""
    d = torch.cat((delta_K, delta_K.new_zeros(8 - len(delta_K))))
    if kind == "homography":
        rows = ((d[2] + d[4], d[5] - d[3], d[0]), (d[5] + d[3], d[2] - d[4], d[1]), (d[6], d[7], -2 * d[2]))
    else:
        rows = ((d[2], -d[3], d[0]), (d[3], d[2], d[1]), (d[6], d[7], 0 * d[0]))
    return torch.stack([torch.stack(row) for row in rows])


def _steepest(template_HW: Tensor, kind: str) -> Tensor:
    """Change of the template's brightness with each parameter, (M, K)."""
    slope_v, slope_u = torch.gradient(template_HW)
    pixels, unit = pixel_grid(*template_HW.shape, like=template_HW), _normaliser(template_HW)
    x, y = (pixels @ unit[:2, :2].mT + unit[:2, 2]).unbind(-1)
    # One unit of the centred coordinates is this many pixels.
    size = 1 / unit[0, 0]
    columns = []
    for unit_K in torch.eye(_PARAMETERS[kind], device=template_HW.device):
        g = _generator(unit_K, kind)
        down = g[2, 0] * x + g[2, 1] * y + g[2, 2]
        du = g[0, 0] * x + g[0, 1] * y + g[0, 2] - x * down
        dv = g[1, 0] * x + g[1, 1] * y + g[1, 2] - y * down
        columns.append(((slope_u * du + slope_v * dv) * size).flatten())
    return torch.stack(columns, dim=-1)


def _normaliser(image: Tensor) -> Tensor:
    """Maps pixels to coordinates centred on the picture, of about unit size."""
    height, width = image.shape[-2:]
    size = (height + width) / 4
    return image.new_tensor([[1 / size, 0, -width / 2 / size], [0, 1 / size, -height / 2 / size], [0, 0, 1.0]])


def _tukey(residual_M: Tensor, inside_M: Tensor) -> Tensor:
    """Weights of pixels: zero outside the frame and for what does not follow the background."""
    if inside_M.sum() < 16:
        return torch.zeros_like(residual_M)
    kept = residual_M[inside_M]
    centred = residual_M - kept.median()
    spread = (1.4826 * centred[inside_M].abs().median()).clamp(min=0.004)
    return (1 - (centred / (4.685 * spread)).square()).clamp(min=0).square() * inside_M


def _pyramid(images_T1HW: Tensor, only: Sequence[int]) -> list[Tensor]:
    """Blurred images, each level half the size of the one before; the frames that are not asked for are left empty."""
    kernel = images_T1HW.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = (kernel[:, None] * kernel[None])[None, None]

    def blurred(x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel)

    levels: list[Tensor] = []
    # A convolution lays out 25 copies of the pictures it is given.
    for part in torch.as_tensor(only, device=images_T1HW.device).split(_BLURRED_TOGETHER):
        level = blurred(images_T1HW[part])
        for n in range(_LEVELS):
            if n:
                level = F.avg_pool2d(blurred(level), 2)
            if len(levels) == n:
                levels.append(level.new_zeros(len(images_T1HW), *level.shape[1:]))
            levels[n][part] = level
            if min(level.shape[-2:]) < 40:
                break
    return levels


def _at_level(h_33: Tensor, level: int) -> Tensor:
    """The same warp in pixels of a pyramid level (or back, with a negative one)."""
    scale = torch.diag(h_33.new_tensor([0.5**level, 0.5**level, 1.0]))
    return scale @ h_33 @ torch.linalg.inv(scale)


def _warped(h_T33: Tensor, rows: int, columns: int, height: int, width: int) -> Tensor:
    """Where the pixels of a rows x columns grid over a height x width picture go, (T, rows, columns, 2)."""
    pixels = pixel_grid(rows, columns, like=h_T33) * h_T33.new_tensor([width / columns, height / rows])
    homogeneous = F.pad(pixels, (0, 1), value=1.0)
    moved = torch.einsum("tij,hwj->thwi", h_T33, homogeneous)
    return moved[..., :2] / moved[..., 2:].clamp(min=1e-6)


def _sample(images_TCHW: Tensor, pixels_THW2: Tensor) -> Tensor:
    size = pixels_THW2.new_tensor([images_TCHW.shape[-1], images_TCHW.shape[-2]])
    return F.grid_sample(images_TCHW, pixels_THW2 / size * 2 - 1, padding_mode="border", align_corners=False)


def _inside(motion_T33: Tensor, rows: int, columns: int, height: int, width: int) -> Tensor:
    place = _warped(motion_T33, rows, columns, height, width)
    return ((place >= 0) & (place <= place.new_tensor([width, height]))).all(-1)


def _corner_shift(motion_T33: Tensor, height: int, width: int) -> float:
    corners = motion_T33.new_tensor([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]])
    moved = torch.einsum("tij,kj->tki", motion_T33, corners)
    return float((moved[..., :2] / moved[..., 2:].clamp(min=1e-6) - corners[:, :2]).norm(dim=-1).max())

"""The object's track in the image, from what was found: a mask with the flow over it, or positions read off latents.

Axes: B clips, T frames, S pairs of frames, N objects, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reward_physics.objects.finder import Found, Places, Positions
from reward_physics.observation.distance import reads_depth
from reward_physics.tracks.from_positions import track_from_positions
from reward_physics.tracks.in_image import ImageTrack, track_in_image
from reward_physics.tracks.zoom import object_flow

if TYPE_CHECKING:
    from reward_physics.observation.observation import Observation


def track_of(observation: Observation) -> ImageTrack:
    """The object that an Observation follows, in pixels."""
    body, steadies = observation.found, observation.instruments.finder.steadies
    if body.positions is not None:
        return _track_of_positions(observation, body)
    track = track_in_image(
        observation.mask_BTHW,
        first_mask_BHW=observation.video.first_mask_BHW,
        flow_BSHW2=None if steadies else observation.flow_BSHW2,
        stride=observation.instruments.flow_stride,
        depth_BTHW=_depth_layer(observation),
        camera=observation.video.camera,
        window_BTHW=None if body.places is None else body.places.window_BTHW,
    )
    if not steadies or observation.instruments.flow is None or body.places is None:
        return track
    return _with_zoomed_flow(observation, track, body.places)


def tracks_of_objects(observation: Observation) -> list[ImageTrack]:
    """One track in the image for each object of `Video.object_masks_BNHW`; empty where the clips have none."""
    first_BNHW = observation.video.object_masks_BNHW
    if first_BNHW is None:
        return []
    return [
        track_in_image(body.mask_BTHW, first_mask_BHW=first_BHW)
        if body.positions is None or body.places is None
        else track_from_positions(body.positions, window_BTHW=body.places.window_BTHW)
        for body, first_BHW in zip(observation.known_objects, first_BNHW.unbind(1), strict=True)
    ]


def read_probe(observation: Observation) -> list[Positions]:
    """What the probe reads off the latents, one path per object.

    Raises:
        ValueError: no probe, clips without latents, or a reading that does not fit the clips.
    """
    probe, video = observation.instruments.probe, observation.video
    thing, latents_B = video.source
    if probe is None:
        raise ValueError("positions are read by a latent probe: give instruments.probe")
    if thing != "latents":
        raise ValueError("instruments.probe needs latents, and the clips are frames: give a LatentVideo, or no probe")
    reading = probe(latents_B, num_frames=video.num_frames, height_px=video.height_px, width_px=video.width_px)
    batch, objects, frames = reading.visible_BNT.shape
    if (batch, frames) != (video.batch_size, video.num_frames) or objects < 1:
        raise ValueError(
            f"probe: expected readings (B, N, T) of B = {video.batch_size} clips, N >= 1 objects and "
            f"T = {video.num_frames} frames, got {(batch, objects, frames)}: let the probe read every decoded frame"
        )
    paths = zip(
        reading.position_px_BNT2.unbind(1),
        reading.half_extent_px_BNT2.unbind(1),
        reading.visible_BNT.unbind(1),
        reading.variance_px2_BNT.unbind(1),
        strict=True,
    )
    return [
        Positions(centre_BT2=centre, half_extent_BT2=half, visible_BT=visible, variance_px2_BT=variance)
        for centre, half, visible, variance in paths
    ]


def _track_of_positions(observation: Observation, body: Found) -> ImageTrack:
    assert body.positions is not None and body.places is not None
    return track_from_positions(
        body.positions,
        window_BTHW=body.places.window_BTHW,
        mask_BTHW=body.mask_BTHW,
        depth_BTHW=_depth_layer(observation) if reads_depth(observation) else None,
        camera=observation.video.camera,
    )


def _depth_layer(observation: Observation) -> Tensor | None:
    """Metric depth of the object where the estimator has such a layer, else of what is seen; None without metres."""
    depth = observation.depth
    if depth is None or not depth.metric:
        return None
    layer = depth.depth_BTHW if depth.object_depth_BTHW is None else depth.object_depth_BTHW
    return layer if observation.instruments.depth_gradient else layer.detach()


def _with_zoomed_flow(observation: Observation, track: ImageTrack, places: Places) -> ImageTrack:
    """The track with the object's flow, measured in a crop of the steadied frames that follows it."""
    instruments = observation.instruments
    assert instruments.flow is not None
    flow, trust = object_flow(
        observation.steady_frames_BTCHW,
        observation.mask_BTHW * track.window_BTHW,
        centre_BT2=places.centre_BT2,
        radius_B=places.radius_B,
        flow=instruments.flow,
        stride=instruments.flow_stride,
    )
    # A flow that carries the object elsewhere than its mask went has lost it, however sure of itself.
    place, stride = track.centroid_BT2.detach(), instruments.flow_stride
    apart_px = (flow.detach() - place[:, stride:] + place[:, :-stride]).norm(dim=-1)
    trust = trust * (apart_px < 1.0 + 0.1 * places.radius_B[:, None])
    return dataclasses.replace(track, flow_BS2=flow, flow_weight_BS=trust)


def least_noise_px(observation: Observation) -> Tensor:
    """Noise of the object's place before any that its size adds, (B,) px: what the instruments expect, or what the
    positions' own variance says where that is more."""
    expected = torch.full_like(observation.video.fps_B, observation.instruments.centroid_noise_px)
    noise = observation.image_track.noise_px_B
    return expected if noise is None else torch.maximum(expected, noise.to(expected))

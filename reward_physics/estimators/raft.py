"""RAFT in the parts that clips need: its shape, the encoding of one frame, and the matching of two encoded frames.

Axes: N pairs of frames, D features, C colours (3), H rows, W columns, 2 = (right, down) in pixels of the input.

Reference: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.optical_flow._utils import make_coords_grid, upsample_flow
from torchvision.models.optical_flow.raft import RAFT, BottleneckBlock, _raft

from reward_physics.estimators.weights import at_least_float


@dataclass(frozen=True, kw_only=True)
class RaftShape:
    """Layer widths of a RAFT of the small kind; the defaults are torchvision's `raft_small`."""

    feature_layers: tuple[int, ...] = (32, 32, 64, 96, 128)
    """Channels of the feature encoder's stages; the last is the length of a matching feature."""
    context_layers: tuple[int, ...] = (32, 32, 64, 96, 160)
    """Channels of the context encoder's stages; the last is hidden state plus context."""
    corr_radius: int = 3
    """Correlations are looked up this many cells around the present estimate."""
    corr_layers: tuple[int, ...] = (96,)
    flow_layers: tuple[int, ...] = (64, 32)
    motion_channels: int = 82
    hidden_channels: int = 96
    head_channels: int = 128
    convex_upsampling: bool = False
    """Learned (convex) upsampling to full resolution instead of bilinear."""

    def build(self) -> RAFT:
        """An untrained RAFT of this shape."""
        return _raft(
            feature_encoder_layers=self.feature_layers,
            feature_encoder_block=BottleneckBlock,
            feature_encoder_norm_layer=nn.InstanceNorm2d,
            context_encoder_layers=self.context_layers,
            context_encoder_block=BottleneckBlock,
            context_encoder_norm_layer=None,
            corr_block_num_levels=4,
            corr_block_radius=self.corr_radius,
            motion_encoder_corr_layers=self.corr_layers,
            motion_encoder_flow_layers=self.flow_layers,
            motion_encoder_out_channels=self.motion_channels,
            recurrent_block_hidden_state_size=self.hidden_channels,
            recurrent_block_kernel_size=(3,),
            recurrent_block_padding=(1,),
            flow_head_hidden_size=self.head_channels,
            use_mask_predictor=self.convex_upsampling,
        )

    def to_config(self) -> dict[str, Any]:
        return {"architecture": "raft", **asdict(self)}


def encode(raft: RAFT, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Matching features and context of images in [-1, 1]: all that RAFT needs of a frame, on its 1/8 grid."""
    return at_least_float(raft.feature_encoder(images_NCHW)), at_least_float(raft.context_encoder(images_NCHW))


def match(
    raft: RAFT, features1: Tensor, features2: Tensor, context1: Tensor, updates: int, *, every: bool = False
) -> list[Tensor]:
    """RAFT's recurrent matching on encoded images; its last flow equals that of `raft(image1, image2, updates)`.

    Args:
        features1, features2: features of the first and second images, (N, D, H/8, W/8).
        context1: context of the first images.
        updates: number of refinements, >= 1. Coordinates are cut from the graph before each.
        every: return the flow after every update (for training), not the last alone.

    Returns: flows, each (N, 2, H, W) in pixels of the encoded images.
    """
    raft.corr_block.build_pyramid(features1, features2)
    hidden_size = raft.update_block.hidden_state_size
    hidden = torch.tanh(context1[:, :hidden_size])
    context = F.relu(context1[:, hidden_size:])
    pairs, _, rows, columns = features1.shape
    start = make_coords_grid(pairs, rows, columns).to(features1)
    coords = start
    flows = []
    for update in range(updates):
        coords = coords.detach()
        correlation = raft.corr_block.index_pyramid(centroids_coords=coords)
        hidden, delta = raft.update_block(hidden, context, correlation, coords - start)
        coords = coords + at_least_float(delta)
        if every or update + 1 == updates:
            up_mask = None if raft.mask_predictor is None else at_least_float(raft.mask_predictor(hidden))
            flows.append(upsample_flow(coords - start, up_mask=up_mask))
    raft.corr_block.corr_pyramid = []
    return flows

"""Key names of published RAFT weights, renamed to torchvision's.

Reference: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020; the weights its
authors published name their parameters otherwise than `torchvision.models.optical_flow`, and hold the same numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_RENAMES = (
    (r"^module\.", ""),
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"^(feature_encoder|context_encoder)\.conv1\.", r"\1.convnormrelu.0."),
    (r"^(feature_encoder|context_encoder)\.norm1\.", r"\1.convnormrelu.1."),
    (r"^(feature_encoder|context_encoder)\.conv2\.", r"\1.conv."),
    (r"\.(layer\d)\.(\d)\.conv(\d)\.", r".\1.\2.convnormrelu\3.0."),
    (r"\.(layer\d)\.(\d)\.norm([12])\.", r".\1.\2.convnormrelu\3.1."),
    (r"^update_block\.encoder\.conv([cf]\d)\.", r"update_block.motion_encoder.conv\1.0."),
    (r"\.motion_encoder\.convc(\d)\.", r".motion_encoder.convcorr\1."),
    (r"\.motion_encoder\.convf(\d)\.", r".motion_encoder.convflow\1."),
    (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"^update_block\.gru\.conv([zrq])\.", r"update_block.recurrent_block.convgru1.conv\1."),
    (r"^update_block\.gru\.conv([zrq])(\d)\.", r"update_block.recurrent_block.convgru\2.conv\1."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
)


def is_original(state: Mapping[str, Tensor]) -> bool:
    """True for a state dict in the key names of RAFT's authors."""
    return any(re.match(r"(module\.)?fnet\.", key) for key in state)


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under torchvision's names.

    A block's last norm (`norm3`, `norm4`) was saved twice, under that name and inside `downsample`: one is dropped.
    """
    return {_renamed(key): tensor for key, tensor in state.items() if not re.search(r"\.norm[34]\.", key)}


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key

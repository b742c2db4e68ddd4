"""The bodies of a clip, each judged by itself: one that is followed, or those that the data names."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from reward_physics.observation import Observation
from reward_physics.tracks.in_image import ImageTrack


def of_bodies(observation: Observation, score: Callable[[ImageTrack], Tensor], *, worst: bool) -> Tensor:
    """The worst or the best score of a clip's bodies, (B,).

    Args:
        observation: any.
        score: track in pixels -> (B,), NaN where it cannot be measured.
        worst: the worst, else the best; bodies that cannot be measured are left out.

    Returns:
        (B,). NaN where no body can be measured.
    """
    score_BN = torch.stack(
        [torch.where(there_B, score(track), torch.nan) for track, there_B in _tracks(observation)], dim=1
    )
    missing_BN = score_BN.detach().isnan()
    safe_BN = torch.where(missing_BN, torch.inf if worst else -torch.inf, score_BN)
    extreme_B = safe_BN.amin(1) if worst else safe_BN.amax(1)
    return torch.where(missing_BN.all(1), torch.nan, extreme_B)


def _tracks(observation: Observation) -> Iterator[tuple[ImageTrack, Tensor]]:
    """Tracks and the clips (B,) that they speak of.

    Two bodies in one mask are separated by their colours: the window that follows one of them may else go over to the
    other where they meet, or stay with it when the first has gone.
    """
    first_BNHW = observation.video.object_masks_BNHW
    if first_BNHW is None:
        crowd_B = torch.zeros(observation.batch_size, dtype=torch.bool, device=observation.video.device)
    else:
        there_BN = first_BNHW.sum((2, 3)) >= 1
        crowd_B = there_BN.sum(1) >= 2
    if not crowd_B.all():
        yield observation.image_track, ~crowd_B
    if first_BNHW is not None and crowd_B.any():
        for track, there_B in zip(observation.object_tracks, there_BN.unbind(1), strict=True):
            yield track, there_B & crowd_B

"""From rewards to the weights of a weighted regression.

    p_gi = softmax_i(A_gi / temperature)             within a prompt's group g of n_g samples
    w_gi = min(n_g p_gi, max_weight n_g / m_g) a_g   1 on average where nothing is clipped and every group is good
    a_g  = exp(min(0, sum_i p_gi r_gi - best) / scale)

a_g is the absolute weight: what a group teaches is worth as much as the reward that its weights expect, so that a group
of only bad samples teaches nothing. A clip that could not be measured has weight 0: it teaches nothing either, and the
m_g others take its share. Equal samples have equal weights whatever the size of their group, bounded or not.

Signed weights teach by bad samples too (`trainers.learning.losses.contrast_loss`): within a prompt's group

    A_gi = (how many of the group are worse - how many are better) / (n_g - 1)

from 1 for the best to -1 for the worst. A rank does not ask how bad the worst is: one clip that fell upwards would
otherwise outweigh all differences between the others. A group of equal samples teaches nothing. A clip that could not
be measured has the rank of the price that the recipe sets on it, and never a better one than the group's worst measured
clip: the policy learns to avoid it. A group without a measured clip teaches nothing.

Axes: G groups (prompts), N samples of the largest group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.settings.regression import Weighting


@dataclass(frozen=True, kw_only=True)
class GroupWeights:
    """The weights of some groups.

    Args:
        weight_GN: what each clip's loss is multiplied by.
        temperature: the one that was used.
        ess_G: effective sample size (sum p)^2 / sum p^2, 0 for a group without a measurable clip.
        entropy_G: entropy of p over log N, 1 for equal weights.
        absolute_G: the absolute weights.
    """

    weight_GN: Tensor
    temperature: float
    ess_G: Tensor
    entropy_G: Tensor
    absolute_G: Tensor


def reward_weights(
    reward_GN: Tensor, measurable_GN: Tensor, how: Weighting, *, present_GN: Tensor | None = None
) -> GroupWeights:
    """The weights of groups of samples.

    Args:
        reward_GN: one reward a clip, finite where measurable; where weights are signed, everywhere.
        measurable_GN: 1 where it was measured.
        present_GN: 1 where a group has a clip at all; by default all groups are of one size.
    """
    present_GN = torch.ones_like(measurable_GN, dtype=torch.bool) if present_GN is None else present_GN > 0
    known_GN = (measurable_GN > 0) & present_GN
    if how.signed:
        return signed_weights(reward_GN, known_GN, present_GN)
    size_G1 = present_GN.sum(1, keepdim=True)
    reward_GN = torch.where(known_GN, reward_GN.double(), 0.0)
    chosen_GN = best_of(reward_GN, known_GN, how.top_k) if how.top_k else known_GN
    # Only differences within a group count; those to the group's best are exactly 0 where all are equal.
    best_G1 = torch.where(chosen_GN, reward_GN, -math.inf).amax(1, keepdim=True)
    advantage_GN = torch.where(chosen_GN, reward_GN - best_G1, 0.0) / spread(reward_GN, known_GN, how.advantage)
    temperature = find_temperature(advantage_GN, chosen_GN, how.target_ess) if how.target_ess else how.temperature
    share_GN = shares(advantage_GN, chosen_GN, temperature)
    weight_GN = share_GN * size_G1
    expected_G = (share_GN * reward_GN).sum(1)
    absolute_G = torch.ones_like(expected_G)
    if how.absolute_scale > 0:
        absolute_G = ((expected_G - how.absolute_reward).clamp(max=0) / how.absolute_scale).exp()
    bound_G1 = how.max_weight * size_G1 / known_GN.sum(1, keepdim=True).clamp(min=1)
    clipped_GN = weight_GN.minimum(bound_G1) if how.max_weight else weight_GN
    return GroupWeights(
        weight_GN=(clipped_GN * absolute_G[:, None]).float(),
        temperature=temperature,
        ess_G=effective_size(weight_GN),
        entropy_G=entropy(share_GN, size_G1[:, 0]),
        absolute_G=torch.where(chosen_GN.any(1), absolute_G, 0.0),
    )


def signed_weights(reward_GN: Tensor, known_GN: Tensor, present_GN: Tensor) -> GroupWeights:
    """Ranks within each group as weights in [-1, 1], 0 on average; equal samples have equal ones."""
    worst_G1 = torch.where(known_GN, reward_GN, math.inf).amin(1, keepdim=True)
    reward_GN = torch.where(known_GN, reward_GN, reward_GN.minimum(worst_G1))
    above_GNN = (reward_GN[:, :, None] - reward_GN[:, None, :]).sign().double()
    compared_GNN = present_GN[:, :, None] & present_GN[:, None, :] & known_GN.any(1)[:, None, None]
    size_G = present_GN.sum(1)
    weight_GN = (above_GNN * compared_GNN).sum(2) / (size_G[:, None] - 1).clamp(min=1)
    size_GN = weight_GN.abs()
    share_GN = size_GN / size_GN.sum(1, keepdim=True).clamp(min=1e-12)
    return GroupWeights(
        weight_GN=weight_GN.float(),
        temperature=1.0,
        ess_G=effective_size(size_GN),
        entropy_G=entropy(share_GN, size_G),
        absolute_G=torch.ones(len(reward_GN), dtype=torch.float64),
    )


def shares(advantage_GN: Tensor, chosen_GN: Tensor, temperature: float) -> Tensor:
    """softmax(advantage / temperature) over the chosen clips of each group; 0 for the others."""
    exponential_GN = torch.where(chosen_GN, (advantage_GN / temperature).exp(), 0.0)
    sum_G1 = exponential_GN.sum(1, keepdim=True)
    return exponential_GN / torch.where(sum_G1 > 0, sum_G1, 1.0)


def best_of(reward_GN: Tensor, known_GN: Tensor, k: int) -> Tensor:
    """The best k measurable clips of each group; of equal ones the first."""
    order_GN = torch.where(known_GN, reward_GN, -math.inf).sort(dim=1, descending=True, stable=True).indices
    first_GN = torch.zeros_like(known_GN).scatter(1, order_GN[:, :k], torch.ones_like(known_GN))
    return first_GN & known_GN


def spread(reward_GN: Tensor, known_GN: Tensor, advantage: str) -> Tensor:
    """What advantages are divided by: 1, each group's standard deviation, or that of all; 1 where it is 0."""
    if advantage == "none":
        return torch.ones(len(reward_GN), 1, dtype=reward_GN.dtype)
    groups = [reward_GN[i][known_GN[i]] for i in range(len(reward_GN))]
    if advantage == "batch":
        groups = [torch.cat(groups)] * len(groups)
    deviations = [float(group.std(correction=0)) if len(group) else 0.0 for group in groups]
    return torch.tensor([[deviation if deviation > 1e-12 else 1.0] for deviation in deviations], dtype=reward_GN.dtype)


def why_nothing_differs(
    reward_GN: Tensor, measurable_GN: Tensor, weights: GroupWeights, how: Weighting, present_GN: Tensor | None = None
) -> str | None:
    """Why these groups teach nothing, None where they do.

    A group teaches where two of its clips have another reward, or one was measured and one was not, and another weight.
    Groups teach by their absolute weights as well, where these differ.
    """
    present_GN = torch.ones_like(measurable_GN, dtype=torch.bool) if present_GN is None else present_GN > 0
    known_GN = (measurable_GN > 0) & present_GN
    if not known_GN.any():
        return f"none of {int(present_GN.sum())} clips could be measured"
    judged_G = differ(reward_GN, known_GN) | (known_GN.any(1) & (present_GN & ~known_GN).any(1))
    weighed_G = differ(weights.weight_GN, present_GN)
    absolute_K = weights.absolute_G[known_GN.any(1)]
    among_groups = not how.signed and how.absolute_scale > 0 and bool(absolute_K.max() - absolute_K.min() > 1e-9)
    if (judged_G & weighed_G).any() or among_groups:
        return None
    return f"all samples of a prompt have the same reward or the same weight, in each of {len(reward_GN)} groups"


def differ(values_GN: Tensor, mask_GN: Tensor) -> Tensor:
    """Whether two values of a group differ, of those under the mask."""
    least_G = torch.where(mask_GN, values_GN, math.inf).amin(1)
    return torch.where(mask_GN, values_GN, -math.inf).amax(1) > least_G


def entropy(share_GN: Tensor, size_G: Tensor) -> Tensor:
    """Entropy of the shares of each group over the logarithm of its size: 1 for equal shares."""
    return -torch.special.xlogy(share_GN, share_GN).sum(1) / size_G.clamp(min=2).log()


def effective_size(weight_GN: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of each group, 0 where all weights are 0."""
    square_G = weight_GN.square().sum(1)
    return weight_GN.sum(1).square() / torch.where(square_G > 0, square_G, 1.0)


def find_temperature(advantage_GN: Tensor, chosen_GN: Tensor, target: float) -> float:
    """The temperature at which the effective sample size is on average `target` of a group's chosen clips.

    It rises with the temperature, so it is found by bisection; where even equal samples have more, the lowest.
    """
    chosen_G = chosen_GN.any(1)
    spread_max = float(-torch.where(chosen_GN, advantage_GN, 0.0).amin()) if chosen_G.any() else 0.0
    if spread_max == 0:
        return 1.0
    low, high = math.log(spread_max) - 14, math.log(spread_max) + 14
    for _ in range(60):
        middle = (low + high) / 2
        size_G = effective_size(shares(advantage_GN[chosen_G], chosen_GN[chosen_G], math.exp(middle)))
        share = float((size_G / chosen_GN[chosen_G].sum(1)).mean())
        low, high = (middle, high) if share < target else (low, middle)
    return math.exp((low + high) / 2)


def weight_metrics(reward_GN: Tensor, measurable_GN: Tensor, weights: GroupWeights) -> dict[str, float]:
    """What a log says of a round: effective sample size, entropy, temperature, absolute weight, reward quantiles."""
    metrics = {
        "ess": weights.ess_G.mean().item(),
        "weight_entropy": weights.entropy_G.mean().item(),
        "weight_max": weights.weight_GN.max().item(),
        "temperature": weights.temperature,
        "absolute_weight": weights.absolute_G.mean().item(),
    }
    known = reward_GN[measurable_GN > 0].double()
    if len(known):
        levels = {"min": 0.0, "p25": 0.25, "p50": 0.5, "p75": 0.75, "max": 1.0}
        metrics |= {f"reward_{name}": known.quantile(level).item() for name, level in levels.items()}
        best_G = torch.where(measurable_GN > 0, reward_GN.double(), -math.inf).amax(1)
        metrics["reward_best"] = best_G[best_G.isfinite()].mean().item()
    return metrics

"""How confident a classifier is of an image, and the confidences at which images leave to meet a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.training.budget import GAP

STEPS = 1000
"""How finely the share of images that leave at an exit is searched."""


def confidence(logits: Tensor) -> Tensor:
    """(B, K) to (B,): log-odds of the largest softmax probability. It orders images as the probability does (Huang et
    al. 2018), and does not saturate at one."""
    ordered = logits.sort(dim=1, descending=True).values
    return ordered[:, 0] - ordered[:, 1:].logsumexp(1)


def certainty(logits: Tensor) -> Tensor:
    """(B, K) to (B,): minus the logarithm of the entropy of the softmax, which does not saturate at zero either."""
    logs = logits.double().log_softmax(1)
    return -(-(logs.exp() * logs).sum(1)).clamp_min(1e-300).log()


Measure = Callable[[Tensor], Tensor]
"""Logits (B, K) to how sure they are, (B,)."""
MEASURES: dict[str, Measure] = {"probability": confidence, "entropy": certainty}
"""How sure a classifier is, by name."""


def cut(confidences: Tensor, leaving: int) -> float:
    """The threshold at which the `leaving` most confident leave, or some more where confidences lie close together.

    Args:
        confidences: (n,), in any order.
    """
    ordered = confidences.double().sort(descending=True).values.tolist()
    if leaving == 0:
        return math.inf
    for last, following in zip(ordered[leaving - 1 :], ordered[leaving:], strict=False):
        if last - following > GAP:
            return (last + following) / 2
    return -math.inf


def exits_taken(confidences: Tensor, thresholds: Sequence[float]) -> Tensor:
    """(n,): the first exit at which each image is confident enough; the last one for the others.

    Args:
        confidences: (n, E). thresholds: E, of all exits but the last.
    """
    leaves = confidences >= torch.tensor(thresholds, dtype=confidences.dtype)
    always = torch.ones(len(leaves), 1, dtype=torch.bool)
    return torch.cat((leaves, always), 1).int().argmax(1)


def geometric(confidences: Tensor, share: float) -> list[float]:
    """Thresholds at which the same share of the images that reach an exit leaves there (Huang et al. 2018)."""
    thresholds = []
    for column in range(confidences.shape[1]):
        arrived = confidences[:, column]
        thresholds.append(cut(arrived, math.ceil(share * len(arrived))))
        confidences = confidences[arrived < thresholds[-1]]
    return thresholds


def thresholds_for(confidences: Tensor, costs: Sequence[int], budget: float, maximum: float = math.inf) -> list[float]:
    """The thresholds that let the fewest images leave such that their mean cost is at most `budget`.

    Args:
        confidences: (n, E) of images for choosing, never of the test split.
        costs: E + 1, of leaving at each exit and at the end. `budget` and `maximum` are in the same unit; with
            `maximum` every image leaves at the last exit that costs no more.

    Raises:
        ValueError: even the first exit costs more.
    """
    if costs[0] > min(budget, maximum):
        raise ValueError(f"the first exit costs {costs[0]}, more than {min(budget, maximum)}")
    end = max(index for index, cost in enumerate(costs) if cost <= maximum)
    paid = torch.tensor(costs, dtype=torch.float64)
    for step in range(STEPS + 1):
        thresholds = geometric(confidences, step / STEPS)
        thresholds = thresholds[:end] + [-math.inf] * (len(thresholds) - end)
        if paid[exits_taken(confidences, thresholds)].mean() <= budget:
            break
    return thresholds

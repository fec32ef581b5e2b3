"""Classification as a task: cross-entropy, soft cross-entropy at temperature 1, top-1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core.metrics import Measured
from bench.data.dataset import Dataset, Split
from bench.tasks.task import in_float32, widened

BATCH = 500


def top1(scores: np.ndarray, details: Sequence[Any], classes: Sequence[str]) -> Measured:
    """Share of the images whose highest logit is the label: (n,) scores of 0 or 1. See `Metric.function`."""
    correct = int(scores.sum(dtype=np.float64))
    return Measured(correct / len(scores), {"correct": correct})


class Classification:
    """Cross-entropy, soft cross-entropy at temperature 1, top-1."""

    headline = "top1"
    threshold = 1.0

    def __init__(self, classes: int = 0) -> None:
        """`classes`: how many there are, which only the prior must know."""
        self.classes = classes

    @classmethod
    def of(cls, data: Dataset) -> Classification:
        return cls(len(data.classes))

    @in_float32
    def loss(self, output: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(output, target, label_smoothing=smoothing)

    def soften(self, output: Tensor) -> Tensor:
        return widened(output.detach()).softmax(dim=1)

    @in_float32
    def distill(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(dim=1) == target).float()

    def details(self, output: Tensor, target: Tensor) -> list[Any]:
        return []

    def prior(self, split: Split) -> Tensor:
        labels = torch.cat([batch.targets for batch in split.batches(BATCH)])
        return (F.one_hot(labels, self.classes).sum(0) + 1).log()  # one image more of each: none is impossible

    def fitted(self, network: Callable[[Tensor], Tensor], split: Split, device: torch.device) -> Classification:
        return self

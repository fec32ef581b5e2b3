"""A task says what loss, a distillation target and "solved" mean, so that methods work beyond classification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core.registry import Registry
from bench.data.dataset import Dataset, Split

PRIOR_BATCH = 500


class Task(Protocol):
    """What training and evaluation need to know of a task. `solved = score >= threshold`.

    headline: the metric that its results are ordered by.
    """

    headline: str
    threshold: float

    def loss(self, output: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean loss of a batch against its labels."""
        ...

    def soften(self, output: Tensor) -> Tensor:
        """A teacher's output as a distillation target, detached."""
        ...

    def distill(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean loss of a student's output against a softened teacher output."""
        ...

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """(B,) in [0, 1]: how well each image is solved."""
        ...

    def found(self, output: Tensor, target: Tensor) -> list[Any]:
        """What metrics over all images need to know of each; empty where the scores say it all."""
        ...

    def prior(self, split: Split) -> Tensor:
        """The output for one image that says how frequent the classes are in a split, and nothing about the image."""
        ...

    def fitted(self, network: Callable[[Tensor], Tensor], split: Split, device: torch.device) -> Task:
        """This task with the threshold that is chosen for a network on the validation split, where one is chosen."""
        ...


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

    def loss(self, output: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(output, target, label_smoothing=smoothing)

    def soften(self, output: Tensor) -> Tensor:
        return output.detach().softmax(dim=1)

    def distill(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(dim=1) == target).float()

    def found(self, output: Tensor, target: Tensor) -> list[Any]:
        return []

    def prior(self, split: Split) -> Tensor:
        labels = torch.cat([batch.targets for batch in split.batches(PRIOR_BATCH)])
        return (F.one_hot(labels, self.classes).sum(0) + 1).log()  # one image more of each: none is impossible

    def fitted(self, network: Callable[[Tensor], Tensor], split: Split, device: torch.device) -> Classification:
        return self


TASKS = Registry(
    "task",
    {
        "classification": "bench.tasks.task:Classification",
        "detection": "bench.tasks.detection.task:Detection",
    },
)
"""By the name that a dataset gives its task."""


def task_of(data: Dataset) -> Task:
    """The task of a dataset. Raises `UserError` for one that the suite does not know."""
    return TASKS.get(data.task).of(data)

"""A task says what loss, a distillation target and "solved" mean, so that methods work beyond classification."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from bench.core.errors import unknown
from bench.data.dataset import Dataset


class Task(Protocol):
    """What training and evaluation need to know of a task. `solved = score >= threshold`."""

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


class Classification:
    """Cross-entropy, soft cross-entropy at temperature 1, top-1."""

    threshold = 1.0

    def loss(self, output: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(output, target, label_smoothing=smoothing)

    def soften(self, output: Tensor) -> Tensor:
        return output.detach().softmax(dim=1)

    def distill(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(dim=1) == target).float()


TASKS: dict[str, type[Task]] = {"classification": Classification}
"""By the name that a dataset gives its task."""


def task_of(data: Dataset) -> Task:
    """The task of a dataset. Raises `UserError` for one that the suite does not know."""
    if data.task not in TASKS:
        raise unknown("task", data.task, TASKS)
    return TASKS[data.task]()

"""A task says what loss, a distillation target and "solved" mean, so that methods work beyond classification."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.core.registry import Registry
from bench.data.dataset import Dataset, Split


def widened(output: Tensor) -> Tensor:
    """An output in float32 where it was computed in fewer digits."""
    return output.to(torch.promote_types(output.dtype, torch.float32))


def in_float32(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss method of a task, computed in float32 where its output was computed in fewer digits."""

    @functools.wraps(loss)
    def computed(self: Task, output: Tensor, *others: Any, **named: Any) -> Tensor:
        with torch.autocast(output.device.type, enabled=False):
            return loss(self, widened(output), *others, **named)

    return computed


class Task(Protocol):
    """What training and evaluation need to know of a task. `solved = score >= threshold`.

    headline: the metric that its results are ordered by, one of its metrics in `bench/core/metrics.py`.
    """

    headline: str
    threshold: float

    def loss(self, output: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean loss of a batch against its labels, computed `in_float32`; (B, classes) float32 where they are mixed."""
        ...

    def soften(self, output: Tensor) -> Tensor:
        """A teacher's output as a distillation target, detached, float32."""
        ...

    def distill(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean loss of a student's output against a softened teacher output, computed `in_float32`."""
        ...

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """(B,) in [0, 1]: how well each image is solved."""
        ...

    def details(self, output: Tensor, target: Tensor) -> list[Any]:
        """What metrics over all images need to know of each; empty where the scores say it all."""
        ...

    def prior(self, split: Split) -> Tensor:
        """The output for one image that says how frequent the classes are in a split, and nothing about the image."""
        ...

    def fitted(self, network: Callable[[Tensor], Tensor], split: Split, device: torch.device) -> Task:
        """This task with the threshold that is chosen for a network on the validation split, where one is chosen."""
        ...


TASKS = Registry(
    "task",
    {
        "classification": "bench.tasks.classification:Classification",
        "detection": "bench.tasks.detection.task:Detection",
    },
)
"""By the name that a dataset gives its task."""


def task_of(data: Dataset) -> Task:
    """The task of a dataset. Raises `UserError` for one that the suite does not know.

    >>> from bench.core.spec import DataSpec
    >>> from bench.data import load
    >>> task = task_of(load(DataSpec("digits")))
    >>> task.score(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1])).tolist()
    [1.0, 0.0]
    """
    return TASKS.get(data.task).of(data)

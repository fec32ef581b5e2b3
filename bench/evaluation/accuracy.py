"""Scores of an operating point on every image of a split, with the route and the claimed cost of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bench.data.dataset import Batch, Split
from bench.data.group import ALONE, Group
from bench.points import OperatingPoint
from bench.tasks.task import Task

BATCH = 250
"""Images of an evaluation batch. Fixed, because float sums may differ in the last bit between batch sizes."""


@dataclass(frozen=True)
class Evaluation:
    """What a point did with each image of a split, in its order.

    Attributes:
        score: float32 (n,) in [0, 1]. madds: int64 (n,), claimed. route: int64 (n, G). params: int64 (n,), active.
        details: what metrics over all images need of each (`Task.details`).
    """

    score: np.ndarray
    madds: np.ndarray
    route: np.ndarray
    params: np.ndarray
    details: list[Any] = field(default_factory=list)

    def routing(self) -> dict[str, int]:
        """How many images took each route, by its name ("3", "1-0-2"); empty for a static point."""
        if self.route.shape[1] == 0:
            return {}
        routes, counts = np.unique(self.route, axis=0, return_counts=True)
        return {"-".join(map(str, route)): int(n) for route, n in zip(routes.tolist(), counts, strict=True)}


@torch.no_grad()
def evaluate(point: OperatingPoint, split: Split, task: Task, device: torch.device, group: Group = ALONE) -> Evaluation:
    """Run a point over a whole split, image order kept. The processes of a group share its batches, and each gets what
    one process alone would have: every batch is run as a whole by one of them.

    >>> from bench.core.spec import DataSpec
    >>> from bench.data import load
    >>> from bench.models import PRESETS
    >>> from bench.points import subnetwork_point
    >>> from bench.tasks.task import task_of
    >>> data, net = load(DataSpec("digits")), PRESETS.get("ds_mobilenet_micro8").build().eval()
    >>> point = subnetwork_point(net, net.space.smallest, data.image_size)
    >>> result = evaluate(point, data.validation, task_of(data), torch.device("cpu"))
    >>> result.score.shape, result.route.shape, result.routing()
    ((150,), (150, 0), {})
    """
    ours = []
    for batch in shared(split, device, group):
        output, route = point(batch.x)
        score = task.score(output, batch.targets).float().cpu()
        ours.append((score.numpy(), route.cpu().numpy(), task.details(output, batch.targets)))
    rounds = itertools.zip_longest(*group.gather(ours))  # batch number k is run by rank k modulo the size
    scores, routes, details = zip(*(batch for each in rounds for batch in each if batch is not None), strict=True)
    route = torch.from_numpy(np.concatenate(routes))
    return Evaluation(
        np.concatenate(scores),
        point.madds(route).numpy(),
        route.numpy(),
        point.params_active(route).numpy(),
        [each for batch in details for each in batch],
    )


def shared(split: Split, device: torch.device, group: Group) -> Iterator[Batch]:
    """The batches of a split that this process of a group evaluates."""
    if group.size == 1:
        return split.batches(BATCH, device=device)
    return split.share(BATCH, group.rank, group.size, device)

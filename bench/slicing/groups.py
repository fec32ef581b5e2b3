"""The one walk that splits a batch by what was decided for each image, and returns results to their rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def take(x: Tensor, rows: Tensor) -> Tensor:
    """The given rows of a batch, in the layout of the batch; the batch itself where they are all of it.

    Args:
        rows: in ascending order, each once.
    """
    return x if len(rows) == len(x) else x[rows]


def split(decided: Tensor) -> list[tuple[int, Tensor]]:
    """What was decided for each image of a batch, int64 (B,), as pairs of a decision and the rows that it is for.

    >>> split(torch.tensor([1, 0, 1]))
    [(0, tensor([1])), (1, tensor([0, 2]))]
    """
    return [(option, (decided == option).nonzero().flatten()) for option in decided.unique().tolist()]


def together(parts: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    """The results of groups as one batch again, in the layout of the groups.

    Args:
        parts: results (b, ...) of each group.
        rows: the row of the batch that each result belongs to; each row of the batch is there once.

    >>> together([torch.tensor([5.0]), torch.tensor([6.0, 7.0])], [torch.tensor([1]), torch.tensor([0, 2])])
    tensor([6., 5., 7.])
    """
    order = torch.cat(list(rows)).argsort()
    whole = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return whole if torch.equal(order, torch.arange(len(order), device=order.device)) else whole[order]

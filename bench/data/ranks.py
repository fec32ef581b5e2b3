"""Counts over the processes of a group, where a split is shared by several (`FolderSplit.shard`).

For whoever starts several processes: the suite's own runs are one each, and Ray does several runs at once.
"""

import torch
from torch import distributed


def sum_over_ranks(*counts: int) -> tuple[int, ...]:
    """The sums of integer counts over all processes of the default group; without a group, the counts themselves.

    Shares hold every image exactly once, so correct images over images is exact whatever the number of processes.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return counts
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(counts, dtype=torch.int64, device=device)
    distributed.all_reduce(total)
    return tuple(total.tolist())

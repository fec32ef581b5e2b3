"""A few images behind the interface of a split, for tests that need no dataset."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.data.dataset import Batch


class InOrder:
    """Images (N, C, H, W) with labels, in order; only what calibration and evaluation ask for."""

    def __init__(self, images: Tensor, targets: Tensor | None = None) -> None:
        self.images = images
        self.targets = torch.zeros(len(images), dtype=torch.int64) if targets is None else targets

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int, device: object = "cpu") -> Iterator[Batch]:
        for start in range(0, len(self.images), batch_size):
            rows = slice(start, start + batch_size)
            yield Batch((self.images[rows],), self.targets[rows])

"""Batch-norm recalibration: re-estimate the statistics of chosen sub-networks on fixed images.

Yu & Huang 2019 calibrate after training; so does DS-Net (METHODS 4.3). Here the moments are pooled over all images,
the images are those of the calibration split in their order, and `largest` is calibrated like any other choice. Only
the statistics of the given choices change; doing it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from bench.data.dataset import Split
from bench.slicing.choice import Choice
from bench.slicing.layers import CollectingChoice
from bench.slicing.supernet import Supernet


@torch.no_grad()
def calibrate(
    net: Supernet, choices: Iterable[Choice], split: Split, device: torch.device, batch_size: int = 256
) -> None:
    """Replace the batch-norm statistics of `choices` by pooled moments over `split`. Weights do not change."""
    training = net.training
    net.eval()
    for choice in choices:
        collecting = CollectingChoice(choice)
        for batch in split.batches(batch_size, device=device):
            net(batch.x, collecting)
        for (norm, key), moments in collecting.moments.items():
            mean, var = moments.mean_var()
            stored_mean, stored_var = norm.statistics(key)
            stored_mean.copy_(mean)
            stored_var.copy_(var)
    net.train(training)

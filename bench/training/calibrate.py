"""Batch-norm recalibration: re-estimate the statistics of chosen sub-networks on fixed images.

Yu & Huang 2019 calibrate after training; so does DS-Net (METHODS 4.3). Here the moments are pooled over all images,
the images are those of the calibration split in their order, and `largest` is calibrated like any other choice. Only
the statistics of the given choices change; doing it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.data.dataset import Split
from bench.slicing.bound import CollectingChoice
from bench.slicing.choice import Choice
from bench.slicing.supernet import Supernet


@torch.no_grad()
def calibrate(
    net: Supernet,
    choices: Iterable[Choice],
    split: Split,
    device: torch.device,
    batch_size: int = 256,
    images: int | None = None,
) -> None:
    """Replace the batch-norm statistics of `choices` by pooled moments over `split`. Weights do not change.

    Args:
        images: how many images of the split to take, from its start; None for all.

    Raises:
        UserError: the split does not have so many images.
    """
    training = net.training
    net.eval()
    for choice in choices:
        collecting = CollectingChoice(choice)
        for x in _first(split, len(split) if images is None else images, batch_size, device):
            net(x, collecting)
        for (norm, key), moments in collecting.moments.items():
            mean, var = moments.mean_var()
            stored_mean, stored_var = norm.statistics(key)
            stored_mean.copy_(mean)
            stored_var.copy_(var)
    net.train(training)


def check_images(split: Split, images: int) -> None:
    """Raise `UserError` where a split does not have so many images to calibrate on."""
    if not 1 <= images <= len(split):
        raise UserError(f"calibration_images must be from 1 to the {len(split)} of {split.id}, not {images}")


def _first(split: Split, images: int, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """The first images of a split, in batches. A remainder joins the batch in front of it: a few images are not to be
    normalised by their own statistics."""
    check_images(split, images)
    waiting = torch.empty(0)
    for batch in split.batches(batch_size, device=device):
        x, images = batch.x[:images], images - len(batch.x)
        if len(x) < batch_size:
            x = torch.cat((waiting, x)) if len(waiting) else x
        elif len(waiting):
            yield waiting
        waiting = x
        if images <= 0:
            break
    yield waiting

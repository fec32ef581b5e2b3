"""What a spec does to the images of a training beyond the data's own augmentation: erasing, RandAugment, mixing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from bench.core.errors import UserError
from bench.core.spec import TrainSpec
from bench.data.dataset import Batch, Dataset, Split
from bench.data.transforms import random_state_kept, seed_all


def training_split(spec: TrainSpec, data: Dataset) -> Split:
    """The training split as a spec wants it augmented.

    Raises:
        UserError: mixed labels where the targets are boxes, an augmentation that these data cannot have, or a batch
            larger than the split.
    """
    if spec.mixes and data.task != "classification":
        raise UserError(f"mixup and cutmix mix the labels of whole images, and {data.id} is data for {data.task}")
    split = data.train
    if spec.random_erasing is not None or spec.randaugment is not None:
        split = split.augmented_with(spec.randaugment, spec.random_erasing)
    split.steps(spec.batch_size)
    return split


def mixed(batch: Batch, spec: TrainSpec, classes: int, seed: int) -> Batch:
    """Mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019) of a batch with itself in reverse order, by timm.

    Images are changed in place. All views of an image are mixed alike, so that one target holds for each. Labels become
    (B, classes) float32, not smoothed: the loss does that. The same seed gives the same mixture.
    """
    mix = _mixer(spec.mixup, spec.cutmix, classes)
    targets = batch.targets
    with random_state_kept():
        for view in batch.views:
            seed_all(seed)
            _, targets = mix(view, batch.targets)
    return Batch(batch.views, targets)


@cache
def _mixer(mixup: float, cutmix: float, classes: int) -> Callable:
    from timm.data.mixup import Mixup  # takes seconds to import

    return Mixup(mixup, cutmix, label_smoothing=0.0, num_classes=classes)

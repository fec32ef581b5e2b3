"""`digits`: scikit-learn's bundled handwriting, 1,797 real images of 8x8: the default, without download.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (its test set). The
images are divided here by a fixed class-balanced permutation; scikit-learn's order, grouped by writer, plays
no part.
"""

from pathlib import Path

import numpy as np

from bench.core.errors import unknown
from bench.core.spec import DataSpec
from bench.data.augment import Augmentation, Normalisation
from bench.data.dataset import Dataset
from bench.data.memory import Card, assemble
from bench.data.splits import balanced_order, cut

CARD = Card(
    name="digits",
    version=1,
    classes=tuple("0123456789"),
    normalisation=Normalisation(peak=16.0, mean=(0.3053,), std=(0.3767,)),  # of the training split, version 1
    augmentation=Augmentation(shift=1, flip=False),  # a mirrored digit is another shape or none
)
PROTOCOLS = ("official",)
HELD_OUT = {"test": 597, "validation": 150, "calibration": 150}  # 900 are left to train


def load(spec: DataSpec, root: Path | None = None) -> Dataset:
    """scikit-learn's bundled handwriting, 1,797 images of 8x8. `root` is not needed.

    Raises UserError for an unknown protocol or too many train_images."""
    if spec.protocol not in PROTOCOLS:
        raise unknown("protocol of digits", spec.protocol, PROTOCOLS)
    images, targets = read()
    members = cut(balanced_order(targets, "split", CARD.name, CARD.version), HELD_OUT, rest="train")
    test = members["test"]
    return assemble(CARD, spec, images, targets, members, lambda: (images[test], targets[test]))


def read() -> tuple[np.ndarray, np.ndarray]:
    """All images, (1797, 8, 8, 1) uint8 with values 0 to 16, and their digits, (1797,) int64."""
    from sklearn.datasets import load_digits  # takes a second to import

    pixels, targets = load_digits(return_X_y=True)
    return np.asarray(pixels, np.uint8).reshape(-1, 8, 8, 1), np.asarray(targets, np.int64)

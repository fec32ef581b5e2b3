"""Images with fixed, named splits: one file a dataset, all behind the interface of `dataset.py`."""

from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.errors import UserError
from bench.core.image_input import ImageInput
from bench.core.registry import Entry, Registry
from bench.core.spec import DataSpec

if TYPE_CHECKING:  # listing the datasets needs no torch
    from bench.data.dataset import Dataset

DATASETS = Registry(
    "dataset",
    {
        "digits": Entry(
            "bench.data.digits:load",
            "scikit-learn's bundled handwriting, 1,797 images of 8x8; nothing to download",
        ),
        "cifar10": Entry(
            "bench.data.cifar:load_cifar10",
            "32x32 colour photographs of 10 classes, from cifar-10-batches-bin or cifar-10-batches-py",
        ),
        "cifar100": Entry(
            "bench.data.cifar:load_cifar100",
            "32x32 colour photographs of 100 classes, from cifar-100-binary or cifar-100-python",
        ),
        "imagenet": Entry(
            "bench.data.imagenet:load_imagenet",
            "photographs of 1,000 classes in class folders (ILSVRC 2012) or any part of them, at 224x224",
        ),
        "tiny_imagenet": Entry(
            "bench.data.imagenet:load_tiny_imagenet",
            "photographs of 200 classes in class folders or any part of them, at 64x64",
        ),
        "folder": Entry(
            "bench.data.own_images:load_folder",
            "images of your own: DATA/NAME/train/<class>/* with val or test beside it (data.folder=NAME)",
        ),
        "voc": Entry(
            "bench.data.voc:load_voc",
            "boxes: the sets that the protocol names, in the layout of PASCAL VOC",
        ),
    },
    group="slicebench.datasets",
)


def load(spec: DataSpec, root: Path | None = None, images: ImageInput | None = None) -> "Dataset":
    """The dataset that `spec` names; `root` is the data directory, which `digits` does without.

    images: how the network wants them that they are for; None: as the data are. Its size holds unless the spec has one.

    Raises UserError for an unknown name or protocol, for data that is missing or damaged (saying what was
    looked for, where, and how to get it), and for more `train_images` than there are.

    >>> digits = load(DataSpec("digits"))
    >>> digits.id, len(digits.train), len(digits.open_test()), next(digits.train.batches(4)).x.shape
    ('digits/official@1', 900, 597, torch.Size([4, 1, 8, 8]))
    >>> load(DataSpec("digit"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    bench.core.errors.UserError: unknown dataset 'digit'; did you mean 'digits'? known: ...
    """
    if spec.folder is not None and spec.name != "folder":
        raise UserError(f"data.folder is for the dataset folder; {spec.name} lies where it always does")
    dataset = DATASETS.get(spec.name)(spec, root)
    return dataset if images is None else dataset.made_for(images, spec.image_size)

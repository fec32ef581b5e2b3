"""Images with fixed, named splits: one file a dataset, all behind the interface of `dataset.py`."""

from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.errors import UserError
from bench.core.registry import Registry
from bench.core.spec import DataSpec

if TYPE_CHECKING:  # listing the datasets needs no torch
    from bench.data.dataset import Dataset

DATASETS = Registry(
    "dataset",
    {
        "digits": "bench.data.digits:load",
        "cifar10": "bench.data.cifar:load_cifar10",
        "cifar100": "bench.data.cifar:load_cifar100",
        "imagenet": "bench.data.imagenet:load_imagenet",
        "tiny_imagenet": "bench.data.imagenet:load_tiny_imagenet",
        "folder": "bench.data.own_images:load_folder",
        "voc": "bench.data.voc:load_voc",
    },
    group="slicebench.datasets",
)


def load(spec: DataSpec, root: Path | None = None) -> "Dataset":
    """The dataset that `spec` names; `root` is the data directory, which `digits` does without.

    Raises UserError for an unknown name or protocol, for data that is missing or damaged (saying what was
    looked for, where, and how to get it), and for more `train_images` than there are.
    """
    if spec.folder is not None and spec.name != "folder":
        raise UserError(f"data.folder is for the dataset folder; {spec.name} lies where it always does")
    return DATASETS.get(spec.name)(spec, root)

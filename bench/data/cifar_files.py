"""The two layouts in which the authors of CIFAR-10 and CIFAR-100 publish them, read into the same arrays.

Binary (`cifar-10-batches-bin`, `cifar-100-binary`): records of label bytes and 3,072 pixel bytes, the red plane
first, then green and blue, each row by row. CIFAR-10 has one label byte; CIFAR-100 has two, the coarse label (one of
20 superclasses) and the fine one. Python (`cifar-10-batches-py`, `cifar-100-python`): one pickle a file, a dict with
`data`, an (n, 3072) uint8 array of the same planes, and lists of labels. A pickle runs code when it is loaded, and
this one is foreign: it is read by an unpickler that can build nothing but an array of bytes.

Source: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky 2009).
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bench.core.errors import UserError

PIXEL_BYTES = 3 * 32 * 32
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"

Planes = tuple[np.ndarray, np.ndarray]
"""Images as planar bytes, (n, 3072) uint8, and the labels to learn, (n,) uint8."""


@dataclass(frozen=True)
class Files:
    """What the files of one of the authors' data sets hold.

    name: the dataset's key. title: how it is written. folders: of the binary and of the python version. names: of the
    files, with how many batches of 10,000 images each holds. labels: the labels of an image in their order, each with
    its key in the pickle and its number of classes; all are read and checked, and the last is the one to learn.
    """

    name: str
    title: str
    folders: tuple[str, str]
    names: Mapping[str, int]
    labels: tuple[tuple[str, int], ...]

    @property
    def record_bytes(self) -> int:
        """Bytes of an image in the binary version."""
        return len(self.labels) + PIXEL_BYTES

    @property
    def layouts(self) -> tuple["Layout", "Layout"]:
        """The binary version first."""
        return Layout(self.folders[0], ".bin", read_binary), Layout(self.folders[1], "", read_python)

    def damaged(self, path: Path, what: str) -> UserError:
        """The error for a file that cannot be used; `what` says why."""
        return UserError(f"{self.name}: {path} {what}; download {self.title} from {SOURCE}")


@dataclass(frozen=True)
class Layout:
    """How one of the two versions lies on disk, and how one of its files is read."""

    folder: str
    suffix: str
    read: Callable[[Path, Files], Planes]


CIFAR10 = Files(
    name="cifar10",
    title="CIFAR-10",
    folders=("cifar-10-batches-bin", "cifar-10-batches-py"),
    names={**{f"data_batch_{i}": 1 for i in range(1, 6)}, "test_batch": 1},
    labels=(("labels", 10),),
)
CIFAR100 = Files(
    name="cifar100",
    title="CIFAR-100",
    folders=("cifar-100-binary", "cifar-100-python"),
    names={"train": 5, "test": 1},
    labels=(("coarse_labels", 20), ("fine_labels", 100)),
)


def nhwc(planes: np.ndarray) -> np.ndarray:
    """(n, 3072) planar bytes to (n, 32, 32, 3), a view."""
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def read_binary(path: Path, files: Files) -> Planes:
    """A file of the binary version. Raises UserError when it is truncated or has a label out of range."""
    content = np.fromfile(path, np.uint8)
    size, count = files.record_bytes, len(files.labels)
    whole, rest = divmod(len(content), size)
    if rest:
        raise files.damaged(path, f"is truncated after {whole:,} records of {size:,} bytes and {rest:,} bytes")
    records = content.reshape(whole, size)
    return records[:, count:], _learnt(list(records[:, :count].T), path, files)


def read_python(path: Path, files: Files) -> Planes:
    """A file of the python version. Raises UserError when it is damaged, or has a label out of range."""
    try:
        with path.open("rb") as file:
            batch = _BatchUnpickler(file, path, files).load()
        planes = batch[b"data"].array()
        labels = [np.array(batch[key.encode()]) for key, _ in files.labels]
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise files.damaged(path, f"is not a whole pickled batch ({type(error).__name__}: {error})") from error
    for each in labels:
        if planes.shape[1:] != (PIXEL_BYTES,) or each.shape != planes.shape[:1] or each.dtype.kind != "i":
            raise files.damaged(path, f"has data of shape {planes.shape} with labels of shape {each.shape}")
    return planes, _learnt(labels, path, files).astype(np.uint8)


def _learnt(labels: Sequence[np.ndarray], path: Path, files: Files) -> np.ndarray:
    """The last of the labels of each image, all of them being checked."""
    for (key, classes), each in zip(files.labels, labels, strict=True):
        wrong = np.flatnonzero((each < 0) | (each >= classes))
        if len(wrong):
            kind = key.removesuffix("labels").replace("_", " ") + "label"
            what = f"has {kind} {each[wrong[0]]} at image {wrong[0]:,} instead of one from 0 to {classes - 1}"
            raise files.damaged(path, what)
    return labels[-1]


class _Inert:
    """Stands in for any numpy object that the pickle names: keeps arguments and state, runs nothing."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The array that this stands for; its state is (version, shape, dtype, column order, bytes)."""
        _, shape, dtype, fortran, content = self.state
        if dtype.arguments[0] not in (b"u1", "u1"):
            raise ValueError(f"data of type {dtype.arguments[0]!r} instead of bytes")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


class _BatchUnpickler(pickle.Unpickler):
    """Knows the three names in the authors' files, each as an inert stand-in, and refuses all others."""

    NAMES = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def __init__(self, file: BinaryIO, path: Path, files: Files):
        super().__init__(file, encoding="bytes")  # the files were written by Python 2
        self._path, self._files = path, files

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.NAMES:
            what = f"asks to run {module}.{name}, as no {self._files.title} file does, and was not loaded"
            raise self._files.damaged(self._path, what)
        return _Inert

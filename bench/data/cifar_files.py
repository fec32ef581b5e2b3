"""The two layouts in which CIFAR-10's authors publish it, read into the same arrays.

Binary (`cifar-10-batches-bin`): records of one label byte and 3,072 pixel bytes, the red plane first, then
green and blue, each row by row. Python (`cifar-10-batches-py`): one pickle a batch, a dict with `data`, a
(10000, 3072) uint8 array of the same planes, and `labels`, a list. A pickle runs code when it is loaded, and
this one is foreign: it is read by an unpickler that can build nothing but an array of bytes.

Source: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky 2009).
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bench.core.errors import UserError

CLASSES = 10
PIXEL_BYTES = 3 * 32 * 32
RECORD_BYTES = 1 + PIXEL_BYTES
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"

Planes = tuple[np.ndarray, np.ndarray]
"""Images as planar bytes, (n, 3072) uint8, and their labels, (n,) uint8."""


@dataclass(frozen=True)
class Layout:
    """How one of the two versions lies on disk, and how one of its files is read."""

    folder: str
    suffix: str
    read: Callable[[Path], Planes]


def nhwc(planes: np.ndarray) -> np.ndarray:
    """(n, 3072) planar bytes to (n, 32, 32, 3), a view."""
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def damaged(path: Path, what: str) -> UserError:
    """The error for a file that cannot be used; `what` says why."""
    return UserError(f"cifar10: {path} {what}; download CIFAR-10 from {SOURCE}")


def read_binary(path: Path) -> Planes:
    """A file of the binary version. Raises UserError when it is truncated or has a label above 9."""
    content = np.fromfile(path, np.uint8)
    whole, rest = divmod(len(content), RECORD_BYTES)
    if rest:
        raise damaged(path, f"is truncated after {whole:,} records of {RECORD_BYTES:,} bytes and {rest:,} bytes")
    records = content.reshape(whole, RECORD_BYTES)
    return records[:, 1:], _checked_labels(records[:, 0], path)


def read_python(path: Path) -> Planes:
    """A file of the python version. Raises UserError when it is damaged, or has a label beyond 0..9."""
    try:
        with path.open("rb") as file:
            batch = _BatchUnpickler(file, path).load()
        planes, labels = batch[b"data"].array(), np.array(batch[b"labels"])
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise damaged(path, f"is not a whole pickled batch ({type(error).__name__}: {error})") from error
    if planes.shape[1:] != (PIXEL_BYTES,) or labels.shape != planes.shape[:1] or labels.dtype.kind != "i":
        raise damaged(path, f"has data of shape {planes.shape} with labels of shape {labels.shape}")
    return planes, _checked_labels(labels, path).astype(np.uint8)


BINARY = Layout("cifar-10-batches-bin", ".bin", read_binary)
PYTHON = Layout("cifar-10-batches-py", "", read_python)
LAYOUTS = (BINARY, PYTHON)


def _checked_labels(labels: np.ndarray, path: Path) -> np.ndarray:
    wrong = np.flatnonzero((labels < 0) | (labels >= CLASSES))
    if len(wrong):
        raise damaged(path, f"has label {labels[wrong[0]]} at image {wrong[0]:,} instead of one from 0 to 9")
    return labels


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

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(file, encoding="bytes")  # the files were written by Python 2
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.NAMES:
            raise damaged(self._path, f"asks to run {module}.{name}, as no CIFAR-10 file does, and was not loaded")
        return _Inert

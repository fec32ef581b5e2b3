"""Small CIFAR-10 archives in the authors' two exact layouts, for the tests of the data room."""

import struct
from pathlib import Path

import numpy as np

NAMES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


def made_up_batches(images: int, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Six batches of (planes, labels): (n, 3072) and (n,) uint8, every image different."""
    random = np.random.default_rng(seed)
    return {
        name: (random.integers(0, 256, (images, 3072), np.uint8), random.integers(0, 10, images, np.uint8))
        for name in NAMES
    }


def write_binary(folder: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """The binary version: a label byte, then 3,072 planar pixel bytes a record."""
    folder.mkdir(parents=True)
    for name, (planes, labels) in batches.items():
        (folder / f"{name}.bin").write_bytes(np.column_stack([labels, planes]).tobytes())
    return folder


def write_python(folder: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """The python version: pickles as Python 2 wrote them."""
    folder.mkdir(parents=True)
    for name, (planes, labels) in batches.items():
        (folder / name).write_bytes(python2_pickle(planes, labels.tolist()))
    return folder


def python2_pickle(planes: np.ndarray, labels: list[int], dtype: bytes = b"u1") -> bytes:
    """The dict of one batch, opcode by opcode as Python 2's cPickle writes it with protocol 2."""
    items = {
        b"batch_label": _string(b"training batch 1 of 5"),
        b"labels": b"](" + b"".join(_integer(label) for label in labels) + b"e",
        b"data": _array(planes, dtype),
        b"filenames": b"](" + b"".join(_string(b"image_%d.png" % i) for i in range(len(labels))) + b"e",
    }
    return b"\x80\x02}(" + b"".join(_string(key) + value for key, value in items.items()) + b"u."


def _array(planes: np.ndarray, dtype: bytes) -> bytes:
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _string(b"b") + b"\x87R"
    shape = b"".join(map(_integer, planes.shape)) + b"\x86"
    kind = b"cnumpy\ndtype\n" + _string(dtype) + b"K\x00K\x01\x87R(K\x03" + _string(b"|")
    kind += b"NNN" + _integer(-1) * 2 + b"K\x00tb"
    return empty + b"(K\x01" + shape + kind + b"\x89" + _string(planes.tobytes()) + b"tb"


def _string(content: bytes) -> bytes:
    short = len(content) < 256
    return (b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<i", len(content))) + content


def _integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    return b"M" + struct.pack("<H", value) if 0 <= value < 65536 else b"J" + struct.pack("<i", value)

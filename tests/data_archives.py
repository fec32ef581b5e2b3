"""Small CIFAR archives in the authors' two exact layouts, for the tests of the data room."""

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


Images100 = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Planes (n, 3072), coarse labels (n,) and fine labels (n,) of CIFAR-100."""


def made_up_cifar100(images: int, seed: int = 0) -> dict[str, Images100]:
    """`train` with five times `images`, and `test`: every image different, every fine label there."""
    random = np.random.default_rng(seed)

    def images_of(n: int) -> Images100:
        fine = random.permutation(np.arange(n) % 100).astype(np.uint8)
        return random.integers(0, 256, (n, 3072), np.uint8), (fine // 5).astype(np.uint8), fine

    return {"train": images_of(5 * images), "test": images_of(images)}


def write_binary100(folder: Path, files: dict[str, Images100]) -> Path:
    """The binary version of CIFAR-100: a coarse and a fine label byte, then 3,072 planar pixel bytes a record."""
    folder.mkdir(parents=True)
    for name, (planes, coarse, fine) in files.items():
        (folder / f"{name}.bin").write_bytes(np.column_stack([coarse, fine, planes]).tobytes())
    return folder


def write_python100(folder: Path, files: dict[str, Images100]) -> Path:
    """The python version of CIFAR-100."""
    folder.mkdir(parents=True)
    for name, (planes, coarse, fine) in files.items():
        labels = {b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist()}
        (folder / name).write_bytes(pickle_of(planes, labels, b"training batch 1 of 1"))
    return folder


def python2_pickle(planes: np.ndarray, labels: list[int], dtype: bytes = b"u1") -> bytes:
    """The dict of one batch of CIFAR-10."""
    return pickle_of(planes, {b"labels": labels}, b"training batch 1 of 5", dtype)


def pickle_of(planes: np.ndarray, labels: dict[bytes, list[int]], batch: bytes, dtype: bytes = b"u1") -> bytes:
    """The dict of one file, opcode by opcode as Python 2's cPickle writes it with protocol 2."""
    count = len(next(iter(labels.values())))
    lists = {key: b"](" + b"".join(_integer(label) for label in values) + b"e" for key, values in labels.items()}
    items = {
        b"batch_label": _string(batch),
        **lists,
        b"data": _array(planes, dtype),
        b"filenames": b"](" + b"".join(_string(b"image_%d.png" % i) for i in range(count)) + b"e",
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

"""What lies in a folder of images, one sub-folder a class: listed once, checked once, and remembered compactly.

An index holds the name and label of each image in two arrays, some 25 bytes an image, which worker processes share. It
is kept in a cache directory ($SLICEBENCH_CACHE, else `slicebench` in the user's cache directory) and holds while no
class folder has changed, so that a million files are not listed again at every start.

Listing reads the first and last bytes of each file: a JPEG that begins and ends as it must is taken for whole, and
every other file is decoded. Damage in between is met only when an image is decoded, or by `decode_all`.
"""

import hashlib
import io
import os
import time
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from bench.core.errors import UserError
from bench.core.files import write_atomic

SUFFIXES = (b".jpeg", b".jpg", b".png", b".bmp", b".webp")
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
FRESH_S = 2.0  # a folder that changed so lately may change again under the same time stamp: it is not cached
THREADS = 8  # listing waits for the disk
CHUNK = 1_000  # images that a thread decodes in one go


@dataclass(frozen=True)
class Index:
    """The images of a folder, by class and then by name.

    classes: names of the sub-folders. names: (N,) bytes. labels: (N,) int32, indices of `classes`. corrupt: (K,) int64,
    images known not to be decodable. decoded: every image was decoded to find them.
    """

    folder: Path
    classes: tuple[str, ...]
    names: np.ndarray
    labels: np.ndarray
    corrupt: np.ndarray
    decoded: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> str:
        """Where an image lies."""
        return os.path.join(self.folder, self.classes[self.labels[row]], os.fsdecode(self.names[row]))


def decode(path: str) -> Image.Image:
    """The image in a file as RGB; grey and CMYK are converted. Raises whatever Pillow raises where it cannot."""
    with open(path, "rb") as file:
        image = Image.open(file)
        image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def why_corrupt(path: str) -> str | None:
    """Why an image cannot be decoded; None where it can."""
    try:
        decode(path)
    except Exception as error:  # a damaged image can fail in any way
        return f"{type(error).__name__}: {str(error).partition(' <')[0].partition(str(path))[0].strip() or 'damaged'}"
    return None


def read_index(folder: Path, decode_all: bool = False) -> Index:
    """The index of a folder, from the cache where it still holds. decode_all: find every corrupt image, once.

    Raises:
        UserError: a class folder without images, or no class folder at all.
    """
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not classes:
        raise UserError(f"{folder} has no class folders; each class is a folder of images in it")
    stamps = np.array([os.stat(folder / name).st_mtime_ns for name in classes], np.int64)
    started, cache = time.time_ns(), _cache_file(folder)
    index = _cached(cache, folder, classes, stamps) or _listed(folder, classes)
    if decode_all and not index.decoded:
        index = replace(index, corrupt=_rows_that_fail(index, range(len(index))), decoded=True)
    elif len(index.corrupt):  # they may have been put right in place, which no time stamp of a folder tells
        index = replace(index, corrupt=_rows_that_fail(index, index.corrupt.tolist()))
    if started - stamps.max() > FRESH_S * 1e9:
        _store(cache, index, stamps)
    return index


def _listed(folder: Path, classes: Sequence[str]) -> Index:
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda name: _list_class(folder / name), classes))
    empty = [name for name, (names, _) in zip(classes, found, strict=True) if not names]
    if empty:
        more = f" (nor do {len(empty) - 1} other class folders)" if len(empty) > 1 else ""
        raise UserError(f"the class folder {folder / empty[0]} holds no images{more}")
    counts = [len(names) for names, _ in found]
    starts = np.cumsum([0, *counts[:-1]])
    corrupt = [start + row for start, (_, rows) in zip(starts.tolist(), found, strict=True) for row in rows]
    return Index(
        folder,
        tuple(classes),
        np.concatenate([np.array(names) for names, _ in found]),
        np.repeat(np.arange(len(classes), dtype=np.int32), counts),
        np.array(corrupt, np.int64),
    )


def _list_class(folder: Path) -> tuple[list[bytes], list[int]]:
    """The names of the images in one class folder, sorted, and the positions of those that are corrupt."""
    names = sorted(os.fsencode(name) for name in os.listdir(folder))
    names = [name for name in names if name.lower().endswith(SUFFIXES)]
    return names, [i for i, name in enumerate(names) if _fails_quick_look(os.path.join(folder, os.fsdecode(name)))]


def _fails_quick_look(path: str) -> bool:
    """Whether an image is corrupt, without decoding one that begins and ends as a JPEG."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
            file.seek(-2, os.SEEK_END)
            if (start, file.read(2)) == (JPEG_START, JPEG_END):
                return False
    except OSError:  # empty, or not readable
        return True
    return why_corrupt(path) is not None


def _rows_that_fail(index: Index, rows: Sequence[int]) -> np.ndarray:
    """(K,) int64: the rows whose image cannot be decoded."""

    def failing(first: int) -> Iterable[int]:
        return [row for row in rows[first : first + CHUNK] if why_corrupt(index.path(row)) is not None]

    with ThreadPoolExecutor(THREADS) as pool:
        parts = pool.map(failing, range(0, len(rows), CHUNK))
        return np.array([row for part in parts for row in part], np.int64)


def _cache_file(folder: Path) -> Path:
    named = os.environ.get("SLICEBENCH_CACHE")
    users = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    key = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:24]
    return (Path(named) if named else Path(users) / "slicebench") / f"index-{key}.npz"


def _cached(file: Path, folder: Path, classes: Sequence[str], stamps: np.ndarray) -> Index | None:
    """The index in the cache, where there is one for the folder as it is now."""
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as kept:
            if kept["classes"].tolist() != list(classes) or not np.array_equal(kept["stamps"], stamps):
                return None
            arrays = (kept["names"], kept["labels"], kept["corrupt"])
            return Index(folder, tuple(classes), *arrays, decoded=bool(kept["decoded"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # none, or a damaged one: list again
        return None


def _store(file: Path, index: Index, stamps: np.ndarray) -> None:
    """Keep an index; a cache that cannot be written is no error."""
    content = io.BytesIO()
    kept = {"names": index.names, "labels": index.labels, "corrupt": index.corrupt, "decoded": np.array(index.decoded)}
    np.savez(content, allow_pickle=False, classes=np.array(index.classes), stamps=stamps, **kept)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, content.getvalue())
    except (OSError, UserError):
        return

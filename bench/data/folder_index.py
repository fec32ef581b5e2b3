"""What lies in a folder of images, one sub-folder a class: listed at every start, looked at once.

An index holds the name and label of each image in two arrays, some 25 bytes an image, which worker processes share.
Listing reads names, sizes and times of all files; hidden ones (".ipynb_checkpoints", "._cat.jpg") are no images, and
files of other suffixes are counted. What costs more is kept in a cache directory ($SLICEBENCH_CACHE, else `slicebench`
in the user's cache directory) while every name, size and time is the same: which images are corrupt, and the digests of
splits.

Looking reads the first and last bytes of each file: a JPEG that begins and ends as it must is taken for whole, and
every other file is decoded. Damage in between is met only when an image is decoded, or by `decode_all`.
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from bench.core.errors import UserError
from bench.core.files import write_atomic
from bench.data.image_file import fails_quick_look, measure, suffixes

FRESH_S = 2.0  # a file that changed so lately may change again under the same time stamp: nothing is cached
THREADS = 8  # listing waits for the disk
CHUNK = 1_000  # images that a thread looks at in one go
LITTER = ("__MACOSX", "@eaDir")  # what unpacking on a Mac and a Synology disk leave beside the classes


@dataclass(frozen=True)
class Index:
    """The images of a folder, by class and then by name.

    classes: their names. places: the sub-folder of each class. names: (N,) bytes, paths below the place. labels: (N,)
    int32, indices of `classes`. corrupt: (K,) int64, images known not to be decodable. stamp: sha256 over names, sizes
    and times of all images; None while they may still be changing. unread: how many files of other suffixes there are.
    extent: of decoded images the smallest width and height and the largest, in pixels.
    """

    folder: Path
    classes: tuple[str, ...]
    names: np.ndarray
    labels: np.ndarray
    corrupt: np.ndarray
    places: tuple[str, ...] = ()
    stamp: str | None = None
    unread: Mapping[str, int] = field(default_factory=dict)
    extent: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> str:
        """Where an image lies."""
        return os.path.join(self.folder, self.places[self.labels[row]], os.fsdecode(self.names[row]))


@dataclass(frozen=True)
class Listing:
    """The images below one folder: their names, sorted, and `facts`: size and times of each, (n, 3) int64."""

    names: list[bytes]
    facts: np.ndarray
    unread: Counter[str]


def visible_folders(folder: Path) -> list[str]:
    """The names of the sub-folders that are not hidden, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name))


def is_hidden(entry: str) -> bool:
    """Whether a file or folder of this name is there for a program and not for its user."""
    return entry.startswith(".") or entry in LITTER


def read_index(folder: Path, decode_all: bool = False) -> Index:
    """The index of a folder of class folders. decode_all: find every corrupt image.

    Raises:
        UserError: a class folder without images, or no class folder at all.
    """
    classes = visible_folders(folder)
    if not classes:
        raise UserError(f"{folder} has no class folders; each class is a folder of images in it")
    with ThreadPoolExecutor(THREADS) as pool:
        listings = list(pool.map(lambda name: list_images(folder / name), classes))
    empty = [name for name, listing in zip(classes, listings, strict=True) if not listing.names]
    if empty:
        more = f" (nor do {len(empty) - 1} other class folders)" if len(empty) > 1 else ""
        raise UserError(f"the class folder {folder / empty[0]} holds no images{more}")
    unread = sum((listing.unread for listing in listings), Counter[str]())
    loose = sum(os.path.splitext(entry.name)[1].lower() in suffixes() for entry in os.scandir(folder))
    if loose:
        unread["in no class folder"] = loose
    return _index(folder, dict(zip(classes, listings, strict=True)), classes, unread, decode_all)


def read_list(folder: Path, file: Path, class_of: Mapping[str, str], decode_all: bool = False) -> Index:
    """The index of a folder whose images lie together. class_of: of each image by its file's name, as `file` lists it.

    Raises:
        UserError: an image that has no class, or a class without its image.
    """
    listing = list_images(folder)
    stems = {Path(image).stem: label for image, label in class_of.items()}
    labels = [stems.get(Path(os.fsdecode(image)).stem) for image in listing.names]
    if None in labels:
        raise UserError(
            f"{os.path.join(folder, os.fsdecode(listing.names[labels.index(None)]))} has no class in {file}"
        )
    if len(labels) < len(stems):
        raise UserError(f"{folder} holds {len(labels):,} of the {len(stems):,} images that {file} names")
    rows = {label: [row for row, own in enumerate(labels) if own == label] for label in sorted(set(stems.values()))}
    parts = {
        label: Listing([listing.names[row] for row in members], listing.facts[members], Counter())
        for label, members in rows.items()
    }
    unread = listing.unread - Counter([file.suffix] if file.parent == folder else [])
    return _index(folder, parts, [""] * len(parts), unread, decode_all)


def list_images(folder: Path) -> Listing:
    """The images in a folder and in the folders below it. Raises OSError where one cannot be read."""

    def refuse(error: OSError) -> NoReturn:
        raise error

    names, unread = [], Counter[str]()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name) and not _leads_back(place, name)]
        below = "" if place == str(folder) else os.path.relpath(place, folder)
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if is_hidden(name):
                continue
            if suffix in suffixes():
                names.append(os.fsencode(os.path.join(below, name)))
            else:
                unread[suffix or "without a suffix"] += 1
    names.sort()
    facts = [_facts(os.path.join(folder, os.fsdecode(name))) for name in names]
    return Listing(names, np.array(facts, np.int64).reshape(-1, 3), unread)


def _leads_back(place: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in: a circle."""
    path = os.path.join(place, name)
    if not os.path.islink(path):
        return False
    here = Path(os.path.realpath(place))
    return Path(os.path.realpath(path)) in (here, *here.parents)


def _facts(path: str) -> tuple[int, int, int]:
    """Size, and when content and file were last changed. A link to nothing has none of them."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _index(
    folder: Path, parts: Mapping[str, Listing], places: Sequence[str], unread: Mapping[str, int], decode_all: bool
) -> Index:
    """The index of the classes' listings, its images looked at, unless that is remembered."""
    started, sha = time.time_ns(), hashlib.sha256()
    for label, listing in parts.items():
        sha.update(json.dumps([label, len(listing.names)]).encode() + b"\0".join(listing.names))
        sha.update(listing.facts.astype("<i8").tobytes())
    newest = max(int(listing.facts[:, 1:].max()) for listing in parts.values())
    index = Index(
        folder,
        tuple(parts),
        np.concatenate([np.array(listing.names) for listing in parts.values()]),
        np.repeat(np.arange(len(parts), dtype=np.int32), [len(listing.names) for listing in parts.values()]),
        np.array([], np.int64),
        tuple(places),
        stamp=sha.hexdigest() if started - newest > FRESH_S * 1e9 else None,
        unread=unread,
    )
    key = f"{'decoded' if decode_all else 'looked'}-{index.stamp}" if index.stamp else None
    seen = remembered(
        key,
        lambda: _decoded(index) if decode_all else {"corrupt": np.flatnonzero(_each(index, fails_quick_look)).tolist()},
    )
    return replace(index, corrupt=np.array(seen["corrupt"], np.int64), extent=seen.get("extent"))


def _decoded(index: Index) -> dict[str, Any]:
    """Which images cannot be decoded, and the extent of the others."""
    sizes = _each(index, measure)
    measured = [size for size in sizes if size is not None]
    extent = [*map(min, zip(*measured, strict=True)), *map(max, zip(*measured, strict=True))] if measured else None
    return {"corrupt": [row for row, size in enumerate(sizes) if size is None], "extent": extent}


def _each(index: Index, look: Callable[[str], Any]) -> list[Any]:
    """What a look at the file of each image gives."""
    chunks = [range(first, min(first + CHUNK, len(index))) for first in range(0, len(index), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        parts = pool.map(lambda rows: [look(index.path(row)) for row in rows], chunks)
        return [value for part in parts for value in part]


def remembered(key: str | None, make: Callable[[], Any]) -> Any:
    """A JSON value from the cache, or made and put there. Without a key nothing is cached; a cache that is damaged or
    cannot be written only costs time."""
    if key is None:
        return make()
    named = os.environ.get("SLICEBENCH_CACHE")
    users = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    file = (Path(named) if named else Path(users) / "slicebench") / f"{key}.json"
    try:
        return json.loads(file.read_bytes())["value"]
    except (OSError, ValueError, KeyError, TypeError):
        value = make()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps({"value": value}).encode())
    except (OSError, UserError):
        pass
    return value

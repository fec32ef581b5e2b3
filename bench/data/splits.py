"""Fixed orders: which image belongs to which split, and which comes when.

Random numbers come from a keyed counter (Philox), whose raw stream NumPy promises never to change, and not
from `torch.randperm` or `Generator.permutation`, which may change between releases and would move images from
one split to another.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

from bench.core.errors import UserError

Key = str | int


def keyed_integers(n: int, *key: Key) -> np.ndarray:
    """(n,) uint64, uniform: a pure function of `key`; a larger n continues the same sequence."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(n)


def keyed_order(n: int, *key: Key) -> np.ndarray:
    """(n,) int64, a permutation of 0..n-1: a pure function of n and `key`."""
    return np.argsort(keyed_integers(n, *key), kind="stable")


def balanced_order(targets: np.ndarray, *key: Key) -> np.ndarray:
    """(n,) int64, a permutation in which the classes take turns: any run of it is balanced to one image.

    targets: (n,) class indices. Once a class is used up the others go on without it.
    """
    shuffled = keyed_order(len(targets), *key)
    labels = targets[shuffled]
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    return shuffled[np.lexsort((labels, turn))]


def cut(order: np.ndarray, sizes: Mapping[str, int], rest: str) -> dict[str, np.ndarray]:
    """Consecutive parts of `order` with the given sizes, and what remains under the name `rest`."""
    parts, start = {}, 0
    for name, size in sizes.items():
        parts[name] = order[start : start + size]
        start += size
    return parts | {rest: order[start:]}


def train_subset(order: np.ndarray, train_images: int | None, dataset: str) -> np.ndarray:
    """The first `train_images` of the training split (None: all), fixed, and balanced if `order` is.

    Raises UserError when there are not that many.
    """
    if train_images is None:
        return order
    if not 1 <= train_images <= len(order):
        raise UserError(f"train_images must be between 1 and the {len(order)} of {dataset}, not {train_images}")
    return order[:train_images]

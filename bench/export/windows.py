"""Tensors that are part of others: what a file need not store, because it can be cut out of what it stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

LEAST_SLICED = 256  # bytes: a slice takes as much to say


class Window(NamedTuple):
    """A tensor as part of a stored one: `stored[starts : starts + shape]` in every dimension."""

    stored: str
    starts: tuple[int, ...]


def window_in(whole: np.ndarray, part: np.ndarray) -> tuple[int, ...] | None:
    """Where a tensor lies inside a larger one: at the front, or for the last two of four dimensions (kernels) in the
    centre. None where it does not, or their types differ.

    >>> window_in(np.arange(6).reshape(2, 3), np.array([[0, 1]]))
    (0, 0)
    """
    if whole.ndim != part.ndim or whole.dtype != part.dtype or any(np.less(whole.shape, part.shape)):
        return None
    starts = [0] * part.ndim
    if part.ndim == 4:
        starts[2:] = [(large - small) // 2 for large, small in zip(whole.shape[2:], part.shape[2:], strict=True)]
    inside = whole[tuple(slice(start, start + size) for start, size in zip(starts, part.shape, strict=True))]
    return tuple(starts) if np.array_equal(inside, part) else None


def stored_once(tensors: Mapping[str, np.ndarray]) -> dict[str, Window]:
    """For each tensor the one to store that it is, or is cut out of. Those to store map to themselves."""
    windows: dict[str, Window] = {}
    stored: list[str] = []
    for name in sorted(tensors, key=lambda name: -tensors[name].nbytes):
        tensor = tensors[name]
        for other in stored:
            same = tensors[other].shape == tensor.shape
            starts = window_in(tensors[other], tensor) if same or tensor.nbytes >= LEAST_SLICED else None
            if starts is not None:
                windows[name] = Window(other, starts)
                break
        else:
            windows[name] = Window(name, (0,) * tensor.ndim)
            stored.append(name)
    return windows

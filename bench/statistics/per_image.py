"""What a point did with each image, as arrays that are small on disk: a score of 0 or 1 and a route take a byte each.

Routes, their MAdds and their parameters stand in a table of the distinct ones. Of a point called P: `P/score` (n,),
uint8 where all scores are 0 or 1, else float32; `P/route` (n,), rows of the table; `P/routes` (R, G), `P/madds` and
`P/params` (R,). Old files hold `P/score`, `P/madds` (n,) and `P/route` (n, G), and are still read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class PointScores(NamedTuple):
    """What one point did with each image, in the split's order."""

    score: NDArray[np.float32]  # (n,) in [0, 1]
    madds: NDArray[np.int64]  # (n,)
    route: NDArray[np.int64]  # (n, G)


def pack(name: str, score: NDArray, madds: NDArray, route: NDArray, params: NDArray) -> dict[str, NDArray]:
    """The arrays of the point called `name`: scores (n,), MAdds (n,), routes (n, G) and active parameters (n,).

    Raises ValueError where two images took one route and are claimed to cost differently.

    >>> route = np.array([[0], [3], [0]])
    >>> arrays = pack("dynamic", np.array([1, 1, 0]), np.array([10, 40, 10]), route, np.array([5, 9, 5]))
    >>> unpack("dynamic", arrays).madds.tolist()
    [10, 40, 10]
    """
    routes, first, row = np.unique(route, axis=0, return_index=True, return_inverse=True)
    row = row.reshape(-1)
    if not (np.array_equal(madds[first][row], madds) and np.array_equal(params[first][row], params)):
        raise ValueError(f"{name} claims different costs for images of one route")
    is_binary = bool(np.isin(score, (0, 1)).all())
    return {
        f"{name}/score": score.astype(np.uint8) if is_binary else score.astype(np.float32),
        f"{name}/route": _small(row),
        f"{name}/routes": _small(routes),
        f"{name}/madds": _small(madds[first]),
        f"{name}/params": _small(params[first]),
    }


def _small(values: NDArray) -> NDArray:
    """The same integers, none below 0, in the smallest type that holds them."""
    return np.ascontiguousarray(values, np.min_scalar_type(int(values.max(initial=0))))


def unpack(name: str, tensors: Mapping[str, NDArray]) -> PointScores:
    """The scores of the point called `name`. Raises KeyError, with its name, for an array that is missing."""
    score, route, madds = (tensors[f"{name}/{part}"] for part in ("score", "route", "madds"))
    if route.ndim == 1:
        madds, route = madds[route], tensors[f"{name}/routes"][route]
    return PointScores(score.astype(np.float32), madds.astype(np.int64), route.astype(np.int64))

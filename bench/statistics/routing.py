"""What routes say: the routes that stand level, how images are spread, whether the right ones are sent on, the oracle.

The oracle takes for each image the cheapest choice that solves it, else the cheapest of all. It is derived from the
scores of the choices and nowhere run, so it has neither latency nor rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Oracle(NamedTuple):
    """Mean score and mean MAdds of the oracle."""

    score: float
    madds: float


def level_routes(routing: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The routes on which every gate takes the first, the second, ... of its options (the last of a shorter list).

    >>> level_routes([[0, 1, 3], [0, 2]])
    [(0, 0), (1, 2), (3, 2)]
    """
    places = range(max(map(len, routing)))
    return [tuple(options[min(place, len(options) - 1)] for options in routing) for place in places]


def entropy_bits(route: NDArray[np.int64]) -> float:
    """Entropy of where images went, in bits: (n, G) routes, each taken as a whole."""
    _, counts = np.unique(route, axis=0, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no "-0.0"


def sent_on(is_wide: NDArray[np.bool_], narrow: NDArray) -> tuple[float, float]:
    """Share of images sent past the narrowest network, among those that it gets wrong and those that it gets right.

    narrow: (n,) its scores in [0, 1], by which an image counts among the right ones; nan where there are none.
    """

    def share(weights: NDArray) -> float:
        return float((weights * is_wide).sum() / weights.sum()) if weights.sum() else math.nan

    right = narrow.astype(np.float64)
    return share(1 - right), share(right)


def separation(spent: NDArray, narrow: NDArray) -> float:
    """Probability that an image which the narrowest network gets wrong is given more MAdds than one that it gets right.

    The area under the ROC curve of `spent` (n,): ties count half, 0.5 is what routing at random has; nan where the
    narrowest network gets all images right or all wrong. narrow: (n,) its scores in [0, 1].
    """
    right = narrow.astype(np.float64)
    values, place = np.unique(spent, return_inverse=True)
    rights = np.bincount(place, right, len(values))
    wrongs = np.bincount(place, 1 - right, len(values))
    pairs = rights.sum() * wrongs.sum()
    below = np.cumsum(rights) - rights
    return float((wrongs * (below + rights / 2)).sum() / pairs) if pairs else math.nan


def oracle(costs: NDArray, scores: NDArray) -> Oracle:
    """The cheapest choice with each image's best score: costs (K,) in MAdds, scores (K, n).

    With scores of 0 and 1 that is the cheapest that solves it, and the cheapest of all where none does.

    >>> oracle(costs=np.array([10, 30]), scores=np.array([[1, 0, 0], [1, 1, 0]]))  # the wide network adds one image
    Oracle(score=0.6666666666666666, madds=16.666666666666668)
    """
    order = np.argsort(costs, kind="stable")
    best = scores[order].argmax(axis=0)  # the first of equals is the cheapest
    reached = scores[order][best, np.arange(scores.shape[1])]
    return Oracle(float(reached.mean(dtype=np.float64)), float(np.asarray(costs, np.float64)[order][best].mean()))


def is_wide(routing: Sequence[Sequence[int]] | None, route: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,): whether any gate sent the image past the first option of its list; route: (n, G).

    routing: for each gate its options; where there are none, the first option is the cheapest that any image took.
    """
    first = np.array([options[0] for options in routing]) if routing else route.min(axis=0)
    return np.any(route > first, axis=1)

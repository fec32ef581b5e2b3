"""Which sub-networks a profile is of: the named ones, all that the gates reach, or a few spread over their cost."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from bench.core.errors import UserError
from bench.slicing.choice import Choice, ChoiceSpace
from bench.slicing.supernet import Supernet

GRAMMAR = "'all', 'routable', 'spread:N' with N from 2, or indices and choices ('largest', '0.0.1') with commas"


def routable(space: ChoiceSpace) -> list[Choice]:
    """Every sub-network that the gates reach, each once; those with a name where there are no gates."""
    if not space.decisions:
        return list(space.named)
    routes = itertools.product(*(range(len(decision.options)) for decision in space.decisions))
    return list(dict.fromkeys(map(space.routed, routes)))


def spread(costs: Sequence[int], count: int) -> list[int]:
    """The places of at most `count` of these costs (at least 2), spread evenly over their logarithm, ascending.

    For each of `count` equal steps from the least to the greatest it takes the cost that is nearest; two steps may
    meet in one.

    >>> spread([10, 11, 12, 100, 1000], 3)
    [0, 3, 4]
    """
    logs = [math.log(cost) for cost in costs]
    low, width = min(logs), max(logs) - min(logs)
    steps = [low + width * step / (count - 1) for step in range(count)]
    return list(dict.fromkeys(min(range(len(logs)), key=lambda place: abs(logs[place] - step)) for step in steps))


def chosen(net: Supernet, text: str, image_size: int, option: str = "--choices") -> list[Choice]:
    """The choices that a text names; those of `routable` and `spread:N` in ascending cost.

    Raises:
        UserError: another text, or an index that the space does not have.
    """
    if text == "all":
        return list(net.space.named)
    spreading = re.fullmatch(r"spread:([0-9]+)", text)
    if text == "routable" or (spreading and int(spreading[1]) > 1):
        choices = routable(net.space)
        madds = [cost.madds for cost in net.costs(choices, image_size)]
        if spreading:
            return [choices[place] for place in spread(madds, int(spreading[1]))]
        return [choices[place] for place in sorted(range(len(madds)), key=madds.__getitem__)]
    return list(dict.fromkeys(_single(net.space, part.strip(), option) for part in text.split(",")))


def _single(space: ChoiceSpace, part: str, option: str) -> Choice:
    try:
        return space.parse(part)
    except ValueError as error:
        raise UserError(f"{option} takes {GRAMMAR}, not {part!r}") from error

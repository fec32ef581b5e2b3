"""The ranges that values may lie in: of a method's options as types, which `settings.parse_options` checks, and of a
spec's fields by a check of each.

>>> from dataclasses import dataclass
>>> from bench.core.settings import parse_options
>>> @dataclass(frozen=True)
... class Options:
...     budgets: Fractions = (0.5,)
>>> parse_options("mine", Options, {"budgets": [0.75, 0.25]})
Options(budgets=(0.75, 0.25))
>>> parse_options("mine", Options, {"budgets": [1.5]})
Traceback (most recent call last):
bench.core.errors.UserError: options.budgets of mine must be at most 1, not 1.5
"""

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate

from bench.core.errors import UserError


def names_each_once(values: Sequence[float]) -> bool:
    """Whether numbers differ in the digits by which operating points are named."""
    return len({f"{value:g}" for value in values}) == len(values)


NamedOnce = Predicate(names_each_once)

Count = Annotated[int, Ge(1)]
FromZero = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Gt(0), Le(1)]
Share = Annotated[float, Ge(0), Le(1)]
Rate = Annotated[float, Ge(0), Lt(1)]
Fractions = Annotated[tuple[Fraction, ...], MinLen(1), NamedOnce]
"""At least one, each named once: of such a list every number is an operating point."""
Shares = Annotated[tuple[Share, ...], MinLen(1), NamedOnce]
"""The same, where none and all are an operating point too."""


def check_number(key: str, value: Any, low: float, below: float | None = None, *, integer: bool = False) -> None:
    """Raises UserError unless low <= value (< below), and a whole number where one is needed."""
    kind = "an integer" if integer else "a number"
    right = isinstance(value, int if integer else int | float) and not isinstance(value, bool)
    if not right or not low <= value < (float("inf") if below is None else below):
        limit = f"at least {low}" if below is None else f"from {low} to below {below}"
        raise UserError(f"{key} must be {kind}, {limit}, not {value!r}")

"""Plain views of a data frame: its rows as dicts, its groups in order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows, each as column -> value."""
    names = list(frame.columns)
    return [dict(zip(names, row, strict=True)) for row in frame.itertuples(index=False, name=None)]


def known(value: Any) -> Any:
    """A value of a frame, None where it has none: among numbers pandas turns None into NaN."""
    return None if value is None or value != value else value


def as_json(value: Any) -> Any:
    """A value of a frame as JSON has it: whole numbers exactly, a fraction or mean with more digits than are shown."""
    value = known(value)
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else int(value) if float(value).is_integer() else float(f"{value:.12g}")
    return int(value) if isinstance(value, np.integer) else bool(value) if isinstance(value, np.bool_) else value


def groups_of(frame: pd.DataFrame, *names: str) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The groups of rows that are equal in the named columns, with those values, sorted by them."""
    for key, group in frame.groupby(list(names), sort=True):
        yield tuple(key), group  # type: ignore[arg-type]


def select(frame: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """The rows that have these values in these columns."""
    return frame.loc[np.logical_and.reduce([frame[name] == value for name, value in wanted.items()])]

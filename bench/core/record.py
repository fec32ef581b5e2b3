"""One measured number, with everything a reader needs to judge it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from bench.core.errors import UserError, unknown
from bench.core.metrics import METRICS
from bench.core.names import is_label

LARGEST = 2**63
"""Numbers of a record are smaller than this."""


@dataclass(frozen=True)
class Record:
    """One number. `split` is a split's id ("digits/official@1:test"), `n` how many things were measured.

    `form` says how the network ran ("view", "extracted", ...) where that matters; `details` are JSON values
    (counter and its version, batch size, threads, ...). A metric that is not in `METRICS` is that of the meter that
    `details["meter"]` names, a plugin's perhaps, and has the unit that stands here. Raises UserError for any other
    unknown metric, one with another unit or an impossible name, ValueError for a value that is not finite.

    >>> run = {"run_id": "us_net-0", "method": "us_net", "model": "us_mobilenet_micro8", "dataset": "digits"}
    >>> run |= {"seed": 0, "split": "digits/official@1:test", "point": "width1"}
    >>> Record(**run, metric="top1", value=0.9, unit="fraction", n=597).n
    597
    >>> Record(**run, metric="top1", value=90, unit="percent", n=597)
    Traceback (most recent call last):
    bench.core.errors.UserError: metric 'top1' is measured in fraction, not in 'percent'
    """

    run_id: str
    method: str
    model: str
    dataset: str
    split: str
    point: str
    seed: int
    metric: str
    value: float | int
    unit: str
    n: int
    form: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metric not in METRICS and "meter" not in self.details:
            raise unknown("metric", self.metric, METRICS)
        unit = METRICS[self.metric].unit if self.metric in METRICS else self.unit
        if self.unit != unit:
            raise UserError(f"metric {self.metric!r} is measured in {unit}, not in {self.unit!r}")
        for name in ("point", "model", "dataset", "split", "metric", "form"):
            if not is_label(value := getattr(self, name)) and (name, value) != ("form", None):
                raise UserError(f"a record's {name} must be a name of letters, digits and _.,:/@=+-, not {value!r}")
        if not math.isfinite(self.value):
            raise ValueError(f"{self.metric} of {self.run_id}/{self.point} is {self.value}, not a finite number")

    def to_json(self) -> dict[str, Any]:
        """A plain dict of JSON values. `parse_record` is its inverse."""
        return asdict(self)


def parse_record(raw: Any) -> Record:
    """A Record from its JSON form. Raises UserError when a key is missing, unknown or of the wrong type."""
    if not isinstance(raw, Mapping):
        raise UserError(f"a record is an object, not {type(raw).__name__}")
    known = {f.name: f.type for f in fields(Record)}
    for key in raw:
        if key not in known:
            raise unknown("key in a record", key, known)
    for key, kind in known.items():
        if key not in raw:
            raise UserError(f"a record lacks its {key!r}")
        kind = dict if key == "details" else kind
        if not isinstance(raw[key], kind) or isinstance(raw[key], bool):  # type: ignore[arg-type]
            raise UserError(f"a record's {key!r} cannot be {raw[key]!r}")
        if isinstance(raw[key], int) and abs(raw[key]) >= LARGEST:
            raise UserError(f"a record's {key!r} is too large a number")
    try:
        return Record(**raw)
    except ValueError as error:  # what is not finite
        raise UserError(str(error)) from error

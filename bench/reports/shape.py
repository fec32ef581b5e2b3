"""The shape and range of every value that reports read from what a phase says, beside those of a `Record` itself."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from bench.core.metrics import METRICS
from bench.core.names import is_label, is_part, is_run_id
from bench.core.record import LARGEST, Record


class Kind(NamedTuple):
    """What a value must be, in words, and whether it is."""

    words: str
    holds: Callable[[Any], Any]


def _is_number(value: Any) -> bool:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and -LARGEST < value < LARGEST and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value) and value >= 0


def a_list(kind: Kind) -> Kind:
    return Kind(
        f"a list of {kind.words}", lambda value: isinstance(value, list | tuple) and all(map(kind.holds, value))
    )


def a_table(kind: Kind) -> Kind:
    return Kind(
        f"an object whose values are each {kind.words}",
        lambda value: isinstance(value, Mapping) and all(map(kind.holds, value.values())),
    )


def optional(kind: Kind) -> Kind:
    return Kind(f"{kind.words}, or nothing", lambda value: value is None or kind.holds(value))


NUMBER = Kind("a number", _is_number)
COUNT = Kind("a whole number from 0", _is_count)
POSITIVE = Kind("a whole number from 1", lambda value: _is_count(value) and value > 0)
AT_LEAST_0 = Kind("a number from 0", lambda value: _is_number(value) and value >= 0)
FRACTION = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
TEXT = Kind("text", lambda value: isinstance(value, str))
LABEL = Kind("a name", is_label)
DATE = optional(Kind("a date", lambda value: isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value)))
YES_OR_NO = Kind("true or false", lambda value: isinstance(value, bool))
INTERVAL = optional(Kind("two numbers", lambda value: a_list(NUMBER).holds(value) and len(value) == 2))
OPTIONS = Kind("a list of lists of options", lambda value: a_list(a_list(COUNT)).holds(value) and all(value))
CONTROL = Kind(
    "an object that says `of` and `role`",
    lambda value: (
        isinstance(value, Mapping)
        and all(key in value for key in ("of", "role"))
        and (value["of"] is None or is_run_id(value["of"]))
        and (value["role"] is None or is_label(value["role"]))
    ),
)
RATIO = Kind("an object with a median", lambda value: isinstance(value, Mapping) and _is_number(value.get("median")))

LOSSES = a_table(NUMBER)
A_STEP = Kind(
    "a step and its losses",
    lambda value: isinstance(value, list) and len(value) == 2 and _is_count(value[0]) and LOSSES.holds(value[1]),
)
CURVES = a_table(a_list(A_STEP))

POINT = {
    "kind": Kind("static or dynamic", lambda value: value in ("static", "dynamic")),
    "control": optional(CONTROL),
    "routing_space": optional(OPTIONS),
    "route": optional(a_list(COUNT)),
    "routing": a_table(COUNT),
    "headline": Kind("a metric that rows can be ordered by", lambda value: value in _HEADLINES),
}
POINT_MAY = {
    "tier": optional(TEXT),
    "reported": optional(TEXT),
    "decides": optional(TEXT),
    "front_madds": optional(COUNT),
}
_HEADLINES = [metric.name for metric in METRICS.values() if metric.axis]

DETAILS: dict[str, dict[str, Kind]] = {
    "madds": {"min": COUNT, "max": COUNT},
    "map50_voc": {"interval": INTERVAL, "classes": a_table(FRACTION), "objects": a_table(COUNT)},
    "latency_ms": {"batch": POSITIVE},
}
"""What the details of a metric's record must hold."""
DETAILS_MAY = {
    "interval": INTERVAL,
    "batch": POSITIVE,
    "threads": POSITIVE,
    "device": LABEL,
    "busy": YES_OR_NO,
    "meter": LABEL,
    "iqr_ms": AT_LEAST_0,
    "p90_ms": AT_LEAST_0,
    "p99_ms": AT_LEAST_0,
    "ratio_to_full": RATIO,
    "correct": COUNT,
}
"""What those of any record hold, where they hold it."""
METER = ("device", "batch", "threads", "busy")
"""What the details of a meter's records hold."""

Fault = tuple[str, Any, str]
"""(field, what it says, what it must be)"""


def faults_of(phase: str, body: Mapping[str, Any]) -> Iterator[Fault]:
    """What in a phase (as `Store.read` gives it, an old one as it is written now) has an impossible shape."""
    results = body["results"]
    yield from _wrong(
        {}, {"digests": a_table(TEXT), "split": LABEL, "checkpoints": a_table(TEXT), "curves": CURVES}, results, ""
    )
    for record in body["records"]:
        yield from _faults_of_record(phase, record)
    if phase == "eval":
        points = results.get("points")
        if not isinstance(points, Mapping):
            yield "points", points, "an object"
            return
        for name, said in points.items():
            if not is_part(name):
                yield "name of a point", name, "letters, digits and _.,:@=+-"
            elif not isinstance(said, Mapping):
                yield f"point {name}", said, "an object"
            else:
                yield from _wrong(POINT, POINT_MAY, said, f" of {name}")


def _faults_of_record(phase: str, record: Record) -> Iterator[Fault]:
    where, details = f" of {record.metric} of {record.point}", record.details
    needed = DETAILS.get(record.metric, {}) if phase == "eval" or record.metric == "latency_ms" else {}
    if phase == "profile" and details.get("meter", "latency") != "latency":
        needed = {key: DETAILS_MAY[key] for key in METER}
    yield from _wrong(needed, DETAILS_MAY, details, where)
    if record.unit not in {metric.unit for metric in METRICS.values()} and not is_label(record.unit):
        yield f"unit{where}", record.unit, "a name"


def _wrong(
    needed: Mapping[str, Kind], possible: Mapping[str, Kind], said: Mapping[str, Any], where: str
) -> Iterator[Fault]:
    for key, kind in {**possible, **needed}.items():
        if key in said and not kind.holds(said[key]):
            yield f"{key}{where}", said[key], kind.words
        elif key in needed and key not in said:
            yield f"{key}{where}", "not there", kind.words

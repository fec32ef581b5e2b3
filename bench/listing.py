"""The tables of `slicebench list`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tabulate import tabulate

REPORTED = Path(__file__).resolve().parent.parent / "results" / "reported"


def listing(what: str) -> str:
    """A plain-text table of one kind of thing that the suite knows."""
    tables: dict[str, Callable[[], Iterable[dict[str, object]]]] = {
        "methods": _methods,
        "models": _models,
        "datasets": _datasets,
        "recipes": _recipes,
        "metrics": _metrics,
        "reported": _reported,
    }
    return tabulate(list(tables[what]()), headers="keys", disable_numparse=True)


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


def _methods() -> Iterable[dict[str, object]]:
    from bench.methods import METHODS, method_of

    for name in METHODS.names():
        method = method_of(name)
        families = ", ".join(method.families) or "all"
        yield {
            "method": name,
            "kind": method.kind,
            "families": families,
            "version": method.version,
            "paper": method.paper,
            "what": _first_line(method),
        }


def _models() -> Iterable[dict[str, object]]:
    from bench.models import MODELS

    for name in MODELS.names():
        yield {"model": name, "what": _first_line(MODELS.get(name))}


def _datasets() -> Iterable[dict[str, object]]:
    from bench.data import DATASETS

    for name in DATASETS.names():
        yield {"dataset": name, "what": _first_line(DATASETS.get(name))}


def _recipes() -> Iterable[dict[str, object]]:
    from bench.recipes import RECIPES

    for name in RECIPES.names():
        yield {"recipe": name, "what": _first_line(RECIPES.get(name))}


def _metrics() -> Iterable[dict[str, object]]:
    from bench.core.record import METRICS

    for name, (unit, what) in METRICS.items():
        yield {"metric": name, "unit": unit, "what": what}


def _reported() -> Iterable[dict[str, object]]:
    from bench.reports.reported import load_reported

    for row in load_reported(REPORTED):
        yield {
            "method": row.method,
            "model": row.model,
            "point": row.point,
            "MAdds": row.madds,
            "top-1 %": row.top1,
            "source": row.source,
        }

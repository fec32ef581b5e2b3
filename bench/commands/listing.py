"""The plain-text tables of the command line: what it knows, what it would run, what a model costs."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.core.store import PHASES, Store
from bench.executors.plan import Plan

if TYPE_CHECKING:  # it imports torch
    from bench.runs.estimate import Estimate

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


def _first_sentence(text: str | None) -> str:
    """The first sentence of a docstring, on one line and without its full stop."""
    paragraph = " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())
    return re.split(r"(?<!e\.g)\.(?: |$)", paragraph, maxsplit=1)[0]


def _methods() -> Iterable[dict[str, object]]:
    from bench.methods import METHODS, method_of

    for name in METHODS.names():
        method = method_of(name)
        yield {
            "method": name,
            "kind": method.kind,
            "trains": ", ".join(method.trains) or "all",
            "families": ", ".join(method.families) or "all",
            "version": method.version,
            "paper": method.paper,
            "what": _first_sentence(type(method).__doc__),
        }


def _models() -> Iterable[dict[str, object]]:
    from bench.models import PRESETS

    for name in PRESETS.names():
        preset = PRESETS.get(name)
        size = f"{preset.channels} x {preset.image_size} x {preset.image_size}"
        facts = {"family": preset.family.name, "trains as": preset.trains_as, "task": preset.task, "images": size}
        yield {"model": name, **facts, "what": preset.what}


def _datasets() -> Iterable[dict[str, object]]:
    from bench.data import DATASETS

    for name in DATASETS.names():
        yield {"dataset": name, "what": _first_sentence(DATASETS.get(name).__doc__)}


def _recipes() -> Iterable[dict[str, object]]:
    from bench.recipes.registry import RECIPES

    for name in RECIPES.names():
        yield {"recipe": name, "what": _first_sentence(RECIPES.get(name).__doc__)}


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


def profile_table(found: dict[str, Any]) -> str:
    """What `profilers.model` found, as a table for people: a row for each sub-network, then what is stored."""
    rows = [_profile_row(subnet) for subnet in found["subnetworks"]]
    columns = {column for row in rows for column in row}  # not every sub-network is timed
    right = ["left"] + ["right"] * (len(columns) - 1)
    lines = [
        f"{found['model']} at {found['image_size']} x {found['image_size']}",
        tabulate(rows, headers="keys", colalign=right, disable_numparse=True),
    ]
    if stored := found.get("params_stored"):
        options = stored["gate_options"]
        gates = f" with {'gates' if stored['gates'] > 1 else 'a gate'} of {options} options" if stored["gate"] else ""
        lines.append(f"parameters stored{gates}: {stored['total']:,} (batch-norm statistics excluded)")
    lines += _how_timed([timed for subnet in found["subnetworks"] for timed in subnet["latency"]])
    return "\n".join(lines)


def _how_timed(latency: Sequence[dict[str, Any]]) -> list[str]:
    """One line: how many calls the medians are of, and beside what they were taken."""
    if not latency:
        return []
    calls = ", ".join(f"{n} at batch {batch}" for batch, n in {timed["batch"]: timed["n"] for timed in latency}.items())
    busy = "; the machine was busy" if any(timed["busy"] for timed in latency) else ""
    return [f"latency: median of calls ({calls}), {latency[0]['threads']} threads{busy}"]


def _profile_row(subnet: dict[str, Any]) -> dict[str, str]:
    row = {"sub-network": subnet["name"], "MAdds": f"{subnet['madds']:,}"}
    if "madds_pool" in subnet:
        row["MAdds + pool"] = f"{subnet['madds_pool']:,}"
    row["params active"] = f"{subnet['params_active']:,}"
    return row | {f"ms {timed['form']} b{timed['batch']}": f"{timed['median_ms']:.2f}" for timed in subnet["latency"]}


def runs_table(specs: Sequence[RunSpec], results: Path, data: Path | None = None) -> str:
    """The runs of a recipe, what each costs, and what is left to do of it. Nothing is created.

    A few training steps of each distinct run are timed for the hours.

    Raises:
        UserError: the results directory could not be written, a run starts from one that is not there, or no data.
    """
    from bench.runs.estimate import estimates

    store = Store(results, writable=False) if results.is_dir() else _NoStore(results)
    Plan(specs, store)
    found = estimates(specs, data)
    untrained = [spec for spec in specs if not store.has(spec.run_id, "train")]
    left = [found[spec.run_id] for spec in untrained]
    hours, untimed = sum(each.hours or 0 for each in left), sum(each.trains and each.hours is None for each in left)
    without = f", without {untimed} that could not be timed" if untimed else ""
    rows = [_run_row(spec, store, found[spec.run_id]) for spec in specs]
    devices = " and ".join(sorted({spec.device for spec in specs}))
    return "\n".join(
        [
            tabulate(rows, headers="keys", disable_numparse=True),
            f"{hours:.2f} hours of training are left, one run after the other{without}: estimated here on {devices} "
            "from a few steps of each; MAdds are those of the largest network for one image",
        ]
    )


def _run_row(spec: RunSpec, store: Store, found: Estimate) -> dict[str, object]:
    left = [phase for phase in PHASES if not store.has(spec.run_id, phase)]
    return {
        "run": spec.run_id,
        "model": spec.model,
        "data": f"{spec.data.name}/{spec.data.protocol}",
        "seed": spec.seed,
        "epochs": spec.train.epochs,
        "MAdds": f"{found.madds:,}",
        "images/epoch": f"{found.images:,}",
        "hours": "-" if found.hours is None else f"{found.hours:.2f}",
        "device": spec.device,
        "to do": ", ".join(left) or "nothing: complete",
    }


class _NoStore(Store):
    """The store of a results directory that is not there yet, but could be."""

    def __init__(self, root: Path) -> None:
        self.root = root
        nearest = next(place for place in (root, *root.absolute().parents) if place.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise UserError(f"the results directory {root} cannot be written, because of {nearest}")

    def has(self, run_id: str, phase: str) -> bool:
        return False

"""`slicebench run RECIPE --dry-run`: what would run, what it costs, and what is left to do. Nothing is created."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from bench.core.errors import UserError
from bench.core.spec import RunSpec, canonical
from bench.core.store import PHASES, Store
from bench.executors.plan import Plan
from bench.runs.estimate import Estimate, estimates


def runs_table(specs: Sequence[RunSpec], results: Path, data: Path | None = None) -> str:
    """The runs of a recipe, how each is trained where that is not by default, what it costs, and what is left to do of
    it. Nothing is created.

    A few training steps of each distinct run are timed for the hours.

    Raises:
        UserError: the results directory could not be written, a run starts from one that is not there, or no data.
    """

    store = Store(results, writable=False) if results.is_dir() else _NoStore(results)
    Plan(specs, store)
    costs = estimates(specs, data)
    untrained = [spec for spec in specs if not store.has(spec.run_id, "train")]
    ahead = [costs[spec.run_id] for spec in untrained]
    hours, untimed = sum(each.hours or 0 for each in ahead), sum(each.trains and each.hours is None for each in ahead)
    without = f", without {untimed} that could not be timed" if untimed else ""
    rows = [_run_row(spec, store, costs[spec.run_id]) for spec in specs]
    devices = " and ".join(sorted({spec.device for spec in specs}))
    return "\n".join(
        [
            tabulate(rows, headers="keys", disable_numparse=True),
            f"{hours:.2f} hours of training are left, one run after the other{without}: estimated here on {devices} "
            "from a few steps of each; MAdds are those of the largest network for one image",
        ]
    )


def _run_row(spec: RunSpec, store: Store, cost: Estimate) -> dict[str, object]:
    missing = [phase for phase in PHASES if not store.has(spec.run_id, phase)]
    return {
        "run": spec.run_id,
        "model": spec.model,
        "data": f"{spec.data.name}/{spec.data.protocol}",
        "seed": spec.seed,
        "epochs": spec.train.epochs,
        "training": " ".join(f"{name}={value}" for name, value in canonical(spec.train).items() if name != "epochs"),
        "MAdds": f"{cost.madds:,}",
        "images/epoch": f"{cost.images:,}",
        "hours": "-" if cost.hours is None else f"{cost.hours:.2f}",
        "device": spec.device,
        "to do": ", ".join(missing) or "nothing: complete",
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

"""Which data a run was made with: the digests of its splits, compared wherever two results meet.

`train.json` holds the digests of the splits that training and selection saw, `eval.json` that of the test split. While
a run trains, they stand in `checkpoints/data.json`, so that a killed run goes on with the data that it began with.
Results written before digests were recorded have none, and are compared with nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.core.errors import UserError
from bench.core.files import read_json, write_json
from bench.core.store import Store

SEEN_IN_TRAINING = ("train", "calibration", "validation")


def recorded(store: Store, run_id: str) -> dict[str, str]:
    """The digest of each split that a run has seen, by the split's name."""
    begun = store.path(run_id) / "checkpoints" / "data.json"
    digests = read_json(begun) if begun.exists() else {}
    for phase in ("train", "eval"):
        if store.has(run_id, phase):
            digests |= store.read(run_id, phase)["results"].get("digests", {})
    return digests


def begin(store: Store, run_id: str, digests: Mapping[str, str]) -> None:
    """Write down what a run is about to train on, beside its checkpoints."""
    folder = store.path(run_id) / "checkpoints"
    folder.mkdir(exist_ok=True)
    write_json(folder / "data.json", dict(digests))


def refuse_other_data(seen: Mapping[str, str], today: Mapping[str, str], run_id: str) -> None:
    """Raises UserError where a split that a run has seen is another today; both are digests by the split's name."""
    for name in sorted(seen.keys() & today.keys()):
        if seen[name] != today[name]:
            raise UserError(
                f"{run_id} was made with other data: the digest of its {name} split is {seen[name][:12]}, and that of "
                f"the data directory is {today[name][:12]}; give it the data that it had, or another results directory"
            )

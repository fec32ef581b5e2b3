"""What the runs of one results directory must agree on: parents, seeds of a row, and the images of a split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from bench.core.store import PHASES
from bench.reports.inspection import Inspection, environment_of, mapping

ROW_VERSIONS = ("torch", "torchvision", "timm", "numpy", "fvcore", "torch-pruning")
"""Libraries whose versions must be those of the other seeds of a row."""


def compare_runs(runs: Mapping[str, Inspection]) -> None:
    """Write down what runs, by the names of their folders, contradict each other in."""
    for each in runs.values():
        _check_parent(each, runs)
    _check_rows(runs.values())
    _check_splits(runs.values())


def _check_parent(run: Inspection, others: Mapping[str, Inspection]) -> None:
    """A run that starts from another starts from one that is here, of its own seed's checkpoint or a stated one."""
    if run.spec is None or "eval" not in run.bodies or run.findings.problems:
        return
    parent, points = run.spec.init_from, run.bodies["eval"]["results"]["points"]
    if parent is not None and parent not in others:
        run.findings.missing.append(f"{parent}, which it starts from, is not here")
    for name, said in points.items():
        control = said.get("control")
        if control is not None:
            run.equal("eval.json", f"control.of of {name}", control.get("of"), parent)


def _check_rows(runs: Iterable[Inspection]) -> None:
    """Runs that differ in their seed alone are not copies of one another, and were made with equal versions."""
    rows: dict[str, list[Inspection]] = {}
    for run in runs:
        if run.spec is not None and run.bodies:
            raw = run.spec.to_json()
            parent = raw.pop("init_from")
            raw.pop("seed")
            key = json.dumps(raw | {"from": parent and parent.partition("-")[0]}, sort_keys=True)
            rows.setdefault(key, []).append(run)
    for row in rows.values():
        _check_copies(row)
        for phase in PHASES:
            if len(done := [run for run in row if phase in run.bodies]) > 1:
                _check_environments(done, phase)


def _check_splits(runs: Iterable[Inspection]) -> None:
    """All runs that were judged on one split were judged on the same number of images, that of most runs."""
    splits: dict[str, list[tuple[str, int, Inspection]]] = {}
    for run in runs:
        if "eval" in run.bodies and not run.findings.problems:
            digest = run.bodies["eval"]["results"].get("digests", {}).get("test", "")
            for split, n in {(record.split, record.n) for record in run.bodies["eval"]["records"]}:
                splits.setdefault(split, []).append((digest, n, run))
    for split, judged in splits.items():
        several = len({digest for digest, _, _ in judged if digest}) > 1  # then they stand in tables of their own
        for data in {digest for digest, _, _ in judged} if several else {None}:
            counts = [n for digest, n, _ in judged if data in (None, digest)]
            usual = max(counts, key=counts.count)
            for digest, n, run in judged:
                if data in (None, digest) and n != usual:
                    run.wrong("eval.json", f"images of {split}", n, f"{usual}, those of the other runs")


def _check_copies(row: Sequence[Inspection]) -> None:
    """No two seeds that were trained have the same checkpoints or did the same with every image."""
    seen: dict[tuple[str, str], Inspection] = {}
    for run in row:
        for what, value in sorted(run.fingerprints.items()) if "checkpoints" in run.fingerprints else ():
            first = seen.setdefault((what, value), run)
            assert first.spec is not None
            assert run.spec is not None
            if first.spec.seed != run.spec.seed:
                for one, other in ((first, run), (run, first)):
                    one.wrong("", what, f"those of {other.run_id}, another seed", "its own")


def _check_environments(row: Sequence[Inspection], phase: str) -> None:
    """The seeds of a row were made with one version of each library, the one that most have; other commits and
    processors are worth a note."""
    for package in ROW_VERSIONS:
        spelled = [str(mapping(environment_of(run, phase).get("versions")).get(package)) for run in row]
        usual = max(spelled, key=spelled.count)  # the first of those that are equally frequent
        for run, version in zip(row, spelled, strict=True):
            if version != usual:
                like = row[spelled.index(usual)].run_id
                run.wrong(f"{phase}.json", f"version of {package}", version, f"{usual} as of {like} of its row")
    for fact in ("commit", "cpu"):
        first = environment_of(row[0], phase).get(fact)
        for run in row[1:]:
            if (own := environment_of(run, phase).get(fact)) != first:
                run.findings.notes.append(f"{phase}: {fact} {own} where {row[0].run_id} has {first}")

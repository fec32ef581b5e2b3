"""What the store holds of each run, and which runs differ in nothing but their seed."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from bench.core.errors import UserError
from bench.core.files import damaged
from bench.core.metrics import METRICS, Metric, paired_metric
from bench.core.record import Record
from bench.core.spec import RunSpec
from bench.core.store import PHASES
from bench.reports.consistent import inspected
from bench.reports.inspection import Inspection, Problem
from bench.reports.old_files import DECIDED

NOT_TRAINED = "not trained here"


class Control(NamedTuple):
    """What a control says of itself: the run_id on whose checkpoint it works, if any, and its role (`Method.role`)."""

    of: str | None
    role: str | None


@dataclass(frozen=True)
class EvaluatedPoint:
    """What the eval phase of a run says of one point.

    Attributes:
        kind: "static" or "dynamic". control: None where the method is no control.
        routing_space: for each decision the options that it may take. route: of a static point that is one route.
            Both are None where they say nothing (`bench.points.OperatingPoint`).
        routing: how many images took each route, by its name.
        word: what the point is, in a word for tables ("gate", "cascade", "slice", "network").
        headline: the metric that rows are ordered by. records: every number that was measured, by metric.
        tier: what its numbers stand for where they are no result of a training here. reported: the key of the row of
            what its authors report of it. front_madds: of a cascade, what the networks that it runs share; None for
            others.
    """

    name: str
    kind: str
    control: Control | None
    routing_space: list[list[int]] | None
    route: tuple[int, ...] | None
    routing: dict[str, int]
    headline: Metric
    records: dict[str, Record]
    tier: str | None = None
    reported: str | None = None
    word: str = ""
    front_madds: int | None = None

    @property
    def score(self) -> Record:
        """The record of the headline."""
        return self.records[self.headline.name]

    @property
    def paired(self) -> Record:
        """The record of the images' mean score, which paired tests compare."""
        return self.records[paired_metric(self.headline.name)]


@dataclass(frozen=True)
class Run:
    """One run as it lies in the store.

    `settings` are the spec's fields by dotted name, without the seed; of the run that it starts from
    (`init_from`), the settings are there as "parent. ...", since that run's id differs by seed. `bodies`
    holds the complete phases by name.
    """

    spec: RunSpec
    settings: dict[str, Any]
    parent_config: str | None
    folder: Path
    bodies: dict[str, dict[str, Any]]
    error: dict[str, Any] | None

    @cached_property
    def run_id(self) -> str:
        return self.spec.run_id

    @cached_property
    def config_id(self) -> str:
        """12 hex digits, shared exactly by the runs that differ in nothing but their seed."""
        return config_of(self.settings)

    @cached_property
    def points(self) -> dict[str, EvaluatedPoint]:
        """What was evaluated, by the points' names; nothing before that. Raises UserError where the evaluation lacks
        something."""
        if "eval" not in self.bodies:
            return {}
        try:
            records: dict[str, dict[str, Record]] = {}
            for record in self.bodies["eval"]["records"]:
                records.setdefault(record.point, {})[record.metric] = record
            said = self.bodies["eval"]["results"]["points"]
            return {name: _point(self.spec.method, name, point, records[name]) for name, point in said.items()}
        except (KeyError, TypeError) as error:
            raise damaged(self.folder / "eval.json", f"its results lack {error.args[0]!r}") from error

    @property
    def control(self) -> Control | None:
        """What it says of itself as a control; None before it is evaluated, and for all that is none."""
        return next((point.control for point in self.points.values()), None)

    @property
    def mark(self) -> str:
        """What is said first of a run whose numbers are no result of a whole training here: its points' tier, or that
        its training, or that of the run it starts from, was cut short by `train.max_steps`. Empty for others."""
        tier = next((point.tier for point in self.points.values()), None)
        is_cut = any(value for key, value in self.settings.items() if key.endswith("train.max_steps"))
        return tier or (NOT_TRAINED if is_cut else "")

    @property
    def missing(self) -> list[str]:
        """The phases that are not complete."""
        return [phase for phase in PHASES if phase not in self.bodies]

    def records(self, phase: str) -> list[Record]:
        """The records of a phase; none when it is not complete."""
        return self.bodies[phase]["records"] if phase in self.bodies else []


def read_runs(results_root: str | Path) -> list[Run]:
    """Every run of a results directory, by run_id, finished or not.

    Raises UserError when there is none, or where a file is damaged or contradicts another.
    """
    runs, problems = sound_runs(results_root)
    for problem in problems:
        raise UserError(str(problem))
    return runs


def sound_runs(results_root: str | Path) -> tuple[list[Run], list[Problem]]:
    """The runs whose files agree with each other, by run_id, finished or not; and what is wrong with the others.

    Weights, proofs and provenance are not looked at: that is what `slicebench verify` does. Raises UserError when there
    are no runs.
    """
    root = Path(results_root)
    inspections = inspected(root, whole=False) if root.is_dir() else {}
    if not inspections:
        raise UserError(f"there are no runs in {root}; make some with: slicebench run RECIPE --results {root}")
    specs = {run_id: each.spec for run_id, each in inspections.items() if each.spec is not None}
    sound = [each for each in inspections.values() if not each.findings.problems]
    problems = [problem for each in inspections.values() for problem in each.findings.problems]
    return set_apart([_run(each, specs) for each in sound]), problems


def _run(each: Inspection, specs: Mapping[str, RunSpec]) -> Run:
    assert each.spec is not None
    parent = specs.get(each.spec.init_from or "")
    return Run(
        spec=each.spec,
        settings=settings_of(each.spec, specs),
        parent_config=config_of(settings_of(parent, specs)) if parent else None,
        folder=each.folder,
        bodies=each.bodies,
        error=each.error,
    )


def _point(method: str, name: str, said: Mapping[str, Any], records: dict[str, Record]) -> EvaluatedPoint:
    return EvaluatedPoint(
        name,
        said["kind"],
        None if said["control"] is None else Control(said["control"]["of"], said["control"]["role"]),
        said["routing_space"],
        None if said["route"] is None else tuple(said["route"]),
        said["routing"],
        METRICS[said["headline"]],
        records,
        said.get("tier"),
        said.get("reported"),
        _word(method, said),
        said.get("front_madds"),
    )


def _word(method: str, said: Mapping[str, Any]) -> str:
    """What a point is, in a word: what decides for each image, or whether it is a slice of shared weights. A control on
    a cascade, whose records once did not say what decides, is told by its shared front."""
    if said["kind"] == "dynamic":
        word = (
            "cascade" if said.get("front_madds") is not None else said.get("decides") or DECIDED.get(method, "routing")
        )
        return f"random {word}" if said["control"] and said["control"]["role"] == "random" else word
    return "slice" if said["route"] is not None or said.get("method_kind") == "slimmable" else "network"


def settings_of(spec: RunSpec, specs: Mapping[str, RunSpec]) -> dict[str, Any]:
    """The spec's fields by dotted name ("train.epochs"), without the seed and with its parent's as "parent. ...".

    A parent that started from another seed keeps that seed in the settings, so that two such runs are never
    taken for two seeds of one thing. Where the parent is not in `specs`, its run_id stands for it.
    """
    raw = spec.to_json()
    seed, init_from = raw.pop("seed"), raw.pop("init_from")
    settings = dict(_flatten(raw))
    if parent := specs.get(init_from or ""):
        settings |= {f"parent.{key}": value for key, value in settings_of(parent, specs).items()}
        if parent.seed != seed:
            settings["parent.seed"] = parent.seed
    elif init_from:
        settings["init_from"] = init_from
    return settings


def _flatten(raw: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in raw.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def config_of(settings: Mapping[str, Any]) -> str:
    """The config_id of some settings; one that has its default is left out, so that one added later changes none."""
    return hashlib.sha256(json.dumps(chosen_settings(settings), sort_keys=True).encode()).hexdigest()[:12]


def chosen_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, of a run and its parents ("parent. ..."), that are not the defaults."""
    usual = dict(_flatten(RunSpec("any", "any").to_json()))
    return {key: value for key, value in settings.items() if usual.get(key.rpartition("parent.")[2], ...) != value}


def set_apart(runs: Sequence[Run]) -> list[Run]:
    """The runs with what sets those of different data apart: no row, and no table, mixes them.

    Where runs that differ in their seed alone, or their parents, have trained on splits of different digests, theirs is
    the setting "data.digest"; where test splits of one name have different digests, it is a part of the names of the
    dataset and the split. Runs that recorded no digest stay as they are.
    """
    trained = {run.run_id: _digest_of(run, "train") for run in runs}
    alike: dict[str, set[str]] = {}
    for run in runs:
        if trained[run.run_id]:
            alike.setdefault(run.config_id, set()).add(trained[run.run_id])
    mixed = {config for config, digests in alike.items() if len(digests) > 1}
    by_id = {run.run_id: run for run in runs}

    def settings(run: Run, prefix: str = "") -> dict[str, Any]:
        own = {f"{prefix}data.digest": trained[run.run_id]} if run.config_id in mixed and trained[run.run_id] else {}
        parent = by_id.get(run.spec.init_from or "")
        return own | (settings(parent, f"{prefix}parent.") if parent else {})

    marked = {run.run_id: replace(run, settings=run.settings | settings(run)) for run in runs}
    tests: dict[str, set[str]] = {}
    for run in runs:
        for record in run.records("eval"):
            tests.setdefault(record.split, set()).update(filter(None, [_digest_of(run, "eval")]))
    several = {split for split, digests in tests.items() if len(digests) > 1}
    return [
        replace(
            run,
            parent_config=marked[run.spec.init_from or ""].config_id
            if run.spec.init_from in marked
            else run.parent_config,
            bodies={phase: _renamed(body, several, _digest_of(run, "eval")) for phase, body in run.bodies.items()},
        )
        for run in marked.values()
    ]


def _digest_of(run: Run, phase: str) -> str:
    """8 digits for the data that a phase has seen; "" where it recorded none."""
    digests = run.bodies[phase]["results"].get("digests") if phase in run.bodies else None
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:8] if digests else ""


def _renamed(body: dict[str, Any], several: set[str], digest: str) -> dict[str, Any]:
    """A phase whose records of these splits name the test split's digest."""
    if not digest:
        return body
    records = [
        replace(record, dataset=f"{record.dataset}-{digest}", split=record.split.replace(":", f"-{digest}:"))
        if record.split in several
        else record
        for record in body["records"]
    ]
    return body | {"records": records}


def records_digest(runs: Iterable[Run]) -> str:
    """SHA-256 over the results of all evaluated runs: no time, host or load is in it."""
    lines = sorted(f"{run.run_id} {run.bodies['eval']['digest']}\n" for run in runs if "eval" in run.bodies)
    return hashlib.sha256("".join(lines).encode()).hexdigest()

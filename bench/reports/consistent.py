"""Whether a results directory agrees with itself: every number recomputed from what lies beside it, without data.

What a stranger's folder says is read and compared, none of its code is run, and no file is opened but those whose
names stand here. A wrong number that was changed with all that it follows from (scores, routes, claims, proof and
digests) passes here; `bench/runs/verify.py` re-executes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from bench.core.errors import UserError, one_line
from bench.core.files import sha256
from bench.core.metrics import paired_metric
from bench.core.names import is_part
from bench.core.record import Record
from bench.core.spec import RunSpec
from bench.core.store import PHASES, Store
from bench.reports.old_files import as_written_now
from bench.reports.shape import AT_LEAST_0, DATE, a_table, faults_of
from bench.statistics.per_image import unpack

PER_IMAGE = "per_image.safetensors"
READ = (*(f"{name}.json" for name in ("spec", *PHASES, "error")), PER_IMAGE)
"""The files of a run that reports read."""
LARGEST = 64 * 2**20
"""Bytes of a JSON or per-image file; a larger one is not read."""
CLOSE = 1e-9
"""Relative difference that rounding may leave between a record and its mean over the images."""
ROW_VERSIONS = ("torch", "torchvision", "timm", "numpy", "fvcore", "torch-pruning")
"""Libraries whose versions must be those of the other seeds of a row."""


@dataclass(frozen=True)
class Problem:
    """One disagreement: a file below the results directory, a field, what it says and what follows from the rest."""

    file: str
    field: str
    said: Any
    expected: Any

    def __str__(self) -> str:
        return f"{self.file}: {self.field} is {shortened(self.said)}, not {shortened(self.expected)}"


@dataclass
class Findings:
    """What was found out about one run.

    Attributes:
        problems: disagreements. missing: what could not be looked at here, in words. notes: what is worth knowing.
        digest: that of the evaluation, as its file says it.
    """

    problems: list[Problem] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    digest: str = ""


class Inspection:
    """One run as it is read, and where what is wrong with it is written down.

    Attributes:
        whole: everything that lies there is compared; else what reports read, without weights, proofs and provenance.
        spec, bodies: what was read; None and nothing of what cannot be read.
    """

    def __init__(self, store: Store, run_id: str, whole: bool) -> None:
        self.store, self.run_id, self.folder, self.whole = store, run_id, store.root / "runs" / run_id, whole
        self.findings = Findings()
        self.spec: RunSpec | None = None
        self.error: dict[str, Any] | None = None
        self.bodies: dict[str, dict[str, Any]] = {}
        self.fingerprints: dict[str, str] = {}  # of what a seed must have of its own

    def wrong(self, file: str, name: str, said: Any, expected: Any) -> None:
        self.findings.problems.append(Problem(f"runs/{self.run_id}/{file}", name, said, expected))

    def equal(self, file: str, name: str, said: Any, expected: Any) -> None:
        """Write down that two values differ, numbers by more than rounding."""
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (said, expected))
        if not (math.isclose(said, expected, rel_tol=CLOSE, abs_tol=CLOSE) if numbers else said == expected):
            self.wrong(file, name, said, expected)


def check_store(root: Path) -> dict[str, Findings]:
    """What is wrong in a results directory, by run_id.

    Raises:
        UserError: there is no such directory, or no run in it.
    """
    runs = inspected(root)
    if not runs:
        raise UserError(f"there are no runs in {root}")
    return {name: each.findings for name, each in runs.items()}


def inspected(root: Path, *, whole: bool = True) -> dict[str, Inspection]:
    """Every run of a results directory with what is wrong with it, by the name of its folder; nothing where there are
    no runs. `whole` as in `Inspection`. Raises UserError when there is no such directory."""
    store = Store(root, writable=False)
    places = [folder / "spec.json" for folder in (root / "runs").glob("*")]
    names = sorted(file.parent.name for file in places if file.is_symlink() or file.exists())
    runs = {name: _inspect(store, name, whole) for name in names}
    for each in runs.values():
        _check_parent(each, runs)
    _check_rows(runs.values())
    _check_splits(runs.values())
    return runs


_UNREADABLE = (
    UserError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    RecursionError,
    OverflowError,
    OSError,
)


def _inspect(store: Store, run_id: str, whole: bool) -> Inspection:
    run, file = Inspection(store, run_id, whole), "spec.json"
    if not _check_files(run):
        return run
    try:
        run.spec = store.read_spec(run_id)
        for phase in PHASES:
            file = f"{phase}.json"
            if store.has(run_id, phase):
                run.bodies[phase] = _phase(store, run.spec, phase)
                run.findings.digest = run.bodies[phase].get("digest", "") if phase == "eval" else run.findings.digest
            else:
                run.findings.missing.append(f"the {phase} phase is not complete")
        file = "error.json"
        run.error = store.read_error(run_id)
    except _UNREADABLE as error:
        run.wrong(file, "content", _reason(error).replace(f"{run.folder / file}: ", ""), "readable")
        return run
    for phase, body in run.bodies.items():
        for name, said, expected in faults_of(phase, body):
            run.wrong(f"{phase}.json", name, said, expected)
    if run.findings.problems:
        return run  # its numbers cannot be compared with anything
    for part in (_check_records, _check_training, _check_evaluation, _check_profile):
        try:
            part(run)
        except (*_UNREADABLE, SafetensorError) as error:
            run.wrong("", part.__name__.removeprefix("_check_"), f"{type(error).__name__} {error}", "complete")
    return run


def _reason(error: Exception) -> str:
    """What is wrong, without the place where the results lie: it stands in tables that are the same anywhere."""
    if isinstance(error, UserError):
        return getattr(error, "reason", str(error))
    return f"{type(error).__name__} {error}"


def _phase(store: Store, spec: RunSpec, phase: str) -> dict[str, Any]:
    """A phase as it is written now, where an older version wrote it."""
    body = store.read(spec.run_id, phase)
    if phase != "eval" or not isinstance(body["results"].get("points"), Mapping):
        return body
    parent, judged = spec.init_from, None
    with contextlib.suppress(UserError):  # a damaged parent is a problem of its own
        judged = store.read(parent, phase) if parent and store.has(parent, phase) else None
    return as_written_now(spec, body, judged)


def _check_files(run: Inspection) -> bool:
    """Plain files of a sensible size only; what is behind a link may lie anywhere."""
    before = len(run.findings.problems)
    inside = run.folder.rglob("*") if run.whole else (file for name in READ if _is_there(file := run.folder / name))
    for path in [run.folder, *sorted(inside)]:
        name, about = str(path.relative_to(run.folder)), path.lstat()
        is_file, is_folder = stat.S_ISREG(about.st_mode), stat.S_ISDIR(about.st_mode)
        if not is_file and (not is_folder or path.suffix in (".json", ".safetensors")):
            run.wrong(name, "kind of file", "a folder" if is_folder else "a link or a special file", "a plain file")
        elif path.suffix in (".json", ".safetensors") and "checkpoints" not in path.parts and about.st_size > LARGEST:
            run.wrong(name, "bytes", about.st_size, f"at most {LARGEST}")
    return len(run.findings.problems) == before


def _check_records(run: Inspection) -> None:
    """Each record is of this run, and its value is one that its unit can have."""
    spec = run.spec
    assert spec is not None
    for phase, body in run.bodies.items():
        file, seen = f"{phase}.json", set()
        for record in body["records"]:
            about = f"{record.metric} of {record.point}"
            own = (("run_id", run.run_id), ("method", spec.method), ("model", spec.model), ("seed", spec.seed))
            for name, expected in own:
                run.equal(file, f"{name} of {about}", getattr(record, name), expected)
            if record.dataset.partition("/")[0] not in (spec.data.name, spec.data.folder):
                run.wrong(file, f"dataset of {about}", record.dataset, f"that of {spec.data.name}")
            if not record.split.startswith(record.dataset.partition(":")[0]):
                run.wrong(file, f"split of {about}", record.split, f"one of {record.dataset}")
            if problem := _impossible(record):
                run.wrong(file, f"value of {about}", record.value, problem)
            key = (record.point, record.metric, record.form, json.dumps(record.details.get("batch")))
            if key in seen:
                run.wrong(file, about, "there twice", "there once")
            seen.add(key)
        timing = body.get("timing", {})
        if not isinstance(timing, Mapping) or not DATE.holds(timing.get("date")):
            run.wrong(file, "timing", timing, "an object, with a date perhaps")
        elif not a_table(AT_LEAST_0).holds({key: value for key, value in timing.items() if key != "date"}):
            run.wrong(file, "timing", timing, "finite numbers from 0")
        if run.whole and not isinstance(_environment(run, phase).get("versions"), Mapping):
            run.wrong(file, "environment.versions", body.get("environment"), "the versions it was made with")


def _impossible(record: Record) -> str:
    """What a record's value must be, where it is not; "" where it may be so."""
    if record.n < 1:
        return "a number of at least one measurement"
    if record.unit == "fraction":
        return "" if 0 <= record.value <= 1 else "between 0 and 1"
    if record.metric in ("madds", "params_stored", "params_active", "latency_ms"):
        return "" if record.value > 0 or record.metric == "params_active" else "above 0"
    return "" if record.value >= 0 else "at least 0"


def _check_training(run: Inspection) -> None:
    """Checkpoints that are here are those that training left."""
    if "train" not in run.bodies:
        return
    results = run.bodies["train"]["results"]
    if digests := results.get("checkpoints", {}):
        run.fingerprints["checkpoints"] = json.dumps(digests, sort_keys=True)
    if not run.whole:
        return
    for name, digest in sorted(digests.items()):
        file = run.folder / "checkpoints" / f"{name}.safetensors"
        if not is_part(name):
            run.wrong("train.json", "name of a checkpoint", name, "a plain name")
        elif not file.exists():
            run.findings.missing.append(f"checkpoint {name}: its digest cannot be compared")
        else:
            run.equal("train.json", f"digest of checkpoint {name}", digest, sha256(file))
            _check_owner(run, file, f"checkpoints/{name}.safetensors")
    if "eval" in run.bodies:
        points = list(run.bodies["eval"]["results"]["points"])
        run.equal("train.json", "points", sorted(results["points"]), sorted(points))


def _is_there(file: Path) -> bool:
    return file.is_symlink() or file.exists()


def _check_owner(run: Inspection, file: Path, name: str) -> dict[str, Any]:
    """The metadata of a safetensors file, which must name this run."""
    try:
        with safe_open(file, framework="np") as opened:
            about = json.loads((opened.metadata() or {}).get("slicebench", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        run.wrong(name, "content", str(error), "readable")
        return {}
    if run.whole or about:
        run.equal(name, "run_id", about.get("run_id"), run.run_id)
    return about


def _check_evaluation(run: Inspection) -> None:
    """Every number of every point follows from what it did with each image."""
    if "eval" not in run.bodies:
        return
    body = run.bodies["eval"]
    results = body["results"]
    per_image = results["per_image"]
    file = run.folder / PER_IMAGE
    if per_image["file"] != PER_IMAGE:
        run.wrong("eval.json", "per_image.file", per_image["file"], PER_IMAGE)
        return
    if not file.exists():
        if not run.whole:
            run.wrong(PER_IMAGE, "file", "not there", "the scores that the evaluation names")
        run.findings.missing.append("the scores of each image: nothing can be recomputed from them")
        return
    run.equal("eval.json", "per_image.sha256", per_image["sha256"], sha256(file))
    about = _check_owner(run, file, PER_IMAGE)
    if run.whole or about:
        run.equal(PER_IMAGE, "split", about.get("split"), results.get("split"))
        for split, digest in results.get("digests", {}).items():
            if split == "test":
                run.equal(PER_IMAGE, "digest of the split", about.get("digest"), digest)
    with safe_open(file, framework="np") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a mapping)
    run.fingerprints["scores"] = hashlib.sha256(
        b"".join(tensors[key].tobytes() for key in sorted(tensors) if key.endswith(("/score", "/route")))
    ).hexdigest()
    records: dict[str, dict[str, Record]] = {}
    for record in body["records"]:
        if "split" in results or run.whole:
            run.equal("eval.json", f"split of {record.metric} of {record.point}", record.split, results.get("split"))
        records.setdefault(record.point, {})[record.metric] = record
    run.equal("eval.json", "points with records", sorted(records), sorted(results["points"]))
    for name, said in results["points"].items():
        _check_point(run, name, said, records.get(name, {}), tensors)


def _check_point(
    run: Inspection, name: str, said: Mapping[str, Any], records: Mapping[str, Record], tensors: Mapping[str, Any]
) -> None:
    here: Callable[[str], str] = lambda what: f"{what} of {name}"
    headline, paired = said["headline"], paired_metric(said["headline"])
    lacking = {headline, paired, "madds", "params_stored", "params_active"} - set(records)
    if lacking:
        run.wrong("eval.json", here("records"), f"without {min(lacking)}", "complete")
        return
    scores = unpack(name, tensors)
    n = len(scores.score)
    shapes = [list(part.shape) for part in scores]
    if shapes[:2] != [[n], [n]] or shapes[2][:1] != [n] or len(shapes[2]) != 2 or n == 0:
        run.wrong(PER_IMAGE, here("shapes"), shapes, "a score, a cost and a route of each image")
        return
    if not (np.isfinite(scores.score).all() and scores.score.min() >= 0 and scores.score.max() <= 1):
        run.wrong("per_image.safetensors", here("score"), "outside", "between 0 and 1")
    for metric, record in records.items():
        run.equal("eval.json", here(f"n of {metric}"), record.n, n)
    mean = float(scores.score.mean(dtype=np.float64))
    run.equal("eval.json", here(paired), records[paired].value, mean)
    if "correct" in (details := records[headline].details):
        run.equal("eval.json", here("correct"), details["correct"], int(scores.score.sum(dtype=np.float64)))
    madds, costs = records["madds"], np.sort(scores.madds)
    run.equal("eval.json", here("madds"), madds.value, float(scores.madds.mean()))
    computed = {"min": costs[0], "max": costs[-1]} | {f"p{q}": costs[min(n - 1, n * q // 100)] for q in (10, 50, 90)}
    for key, value in computed.items():
        if key in madds.details:
            run.equal("eval.json", here(f"madds {key}"), madds.details[key], int(value))
    if f"{name}/params" in tensors:
        params = tensors[f"{name}/params"][tensors[f"{name}/route"]]
        run.equal("eval.json", here("params_active"), records["params_active"].value, float(params.mean()))
    if records["params_active"].value > records["params_stored"].value * (1 + CLOSE):
        run.wrong("eval.json", here("params_active"), records["params_active"].value, "at most what is stored")
    if "madds_theoretical" in records and records["madds_theoretical"].value > madds.value * (1 + CLOSE):
        run.wrong("eval.json", here("madds_theoretical"), records["madds_theoretical"].value, "at most the madds")
    _check_routes(run, name, said, scores)


def _check_routes(run: Inspection, name: str, said: Mapping[str, Any], scores: Any) -> None:
    """The histogram, the routing space and the proof against the routes that images took."""
    routes, first, counts = np.unique(scores.route, axis=0, return_index=True, return_counts=True)
    spelled = ["-".join(map(str, route)) for route in routes.tolist()]
    gates = scores.route.shape[1]
    run.equal("eval.json", f"kind of {name}", said["kind"] == "dynamic", gates > 0)
    expected = dict(zip(spelled, counts.tolist(), strict=True)) if gates else {}
    run.equal("eval.json", f"routing of {name}", said["routing"], expected)
    if said["routing_space"] is not None and gates:
        space = [set(options) for options in said["routing_space"]]
        outside = [
            route
            for route in routes.tolist()
            if any(o not in s for o, s in zip(route, space, strict=len(space) == gates))
        ]
        if outside or len(space) != gates:
            run.wrong("eval.json", f"routing_space of {name}", said["routing_space"], f"one that holds {outside[:1]}")
    if not run.whole:
        return
    proof = said.get("executed_proof")
    if not isinstance(proof, Mapping) or not proof.get("networks"):
        run.wrong("eval.json", f"executed_proof of {name}", proof, "what was counted")
        return
    if gates:
        run.equal("eval.json", f"images that the proof of {name} ran", proof.get("images"), len(scores.score))
    claims = dict(zip(spelled if gates else ["static"], scores.madds[first].tolist(), strict=True))
    for route, counted in proof["networks"].items():
        if route in claims:
            run.equal("eval.json", f"multiply-adds of route {route} of {name}", claims[route], counted)
    uncounted = sorted(set(claims) - set(proof["networks"]))
    if len(uncounted) > proof.get("uncounted_routes", 0):
        run.wrong("eval.json", f"executed_proof of {name}", f"without route {uncounted[0]}", "of every route")
    if not proof.get("forms"):
        run.wrong("eval.json", f"forms that the proof of {name} ran", proof.get("forms"), "at least one")


def _check_profile(run: Inspection) -> None:
    """Timings are of this run's points and batch sizes, above zero, and agree with each other."""
    if "profile" not in run.bodies or "eval" not in run.bodies:
        return
    assert run.spec is not None
    points = run.bodies["eval"]["results"]["points"]
    latency = {}
    for record in run.bodies["profile"]["records"]:
        about = f"{record.metric} of {record.point}, {record.form}"
        if record.point not in points:
            run.wrong("profile.json", f"point of {about}", record.point, f"one of {', '.join(points)}")
        if run.whole and record.details.get("batch") not in run.spec.profile.batch_sizes:
            run.wrong("profile.json", f"batch of {about}", record.details.get("batch"), "one that the spec names")
        if not record.value > 0:
            run.wrong("profile.json", f"value of {about}", record.value, "above 0")
        key = (record.point, record.form, record.details.get("batch"))
        if record.metric == "latency_ms":
            latency[key] = record.value
        elif record.metric == "images_per_s" and latency.get(key, 0) > 0:
            run.equal("profile.json", about, record.value, 1e3 * key[2] / latency[key])


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
        spelled = [str(_mapping(_environment(run, phase).get("versions")).get(package)) for run in row]
        usual = max(spelled, key=spelled.count)  # the first of those that are equally frequent
        for run, version in zip(row, spelled, strict=True):
            if version != usual:
                like = row[spelled.index(usual)].run_id
                run.wrong(f"{phase}.json", f"version of {package}", version, f"{usual} as of {like} of its row")
    for fact in ("commit", "cpu"):
        first = _environment(row[0], phase).get(fact)
        for run in row[1:]:
            if (own := _environment(run, phase).get(fact)) != first:
                run.findings.notes.append(f"{phase}: {fact} {own} where {row[0].run_id} has {first}")


def _environment(run: Inspection, phase: str) -> Mapping[str, Any]:
    return _mapping(run.bodies[phase].get("environment"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def shortened(value: Any) -> str:
    """A value in at most 160 characters."""
    text = one_line(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."

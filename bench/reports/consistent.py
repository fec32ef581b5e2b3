"""Whether a results directory agrees with itself: every number recomputed from what lies beside it, without data.

What a stranger's folder says is read and compared, none of its code is run, and no file is opened but those whose
names stand here. A wrong number that was changed with all that it follows from (scores, routes, claims, proof and
digests) passes here; `bench/runs/verify.py` re-executes it.
"""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bench.core.errors import UserError
from bench.core.files import sha256
from bench.core.names import is_part
from bench.core.record import Record
from bench.core.spec import RunSpec
from bench.core.store import PHASES, Store
from bench.reports.between_runs import compare_runs
from bench.reports.evaluated import check_evaluation, check_owner
from bench.reports.inspection import PER_IMAGE, Findings, Inspection, environment_of
from bench.reports.old_files import as_written_now
from bench.reports.shape import AT_LEAST_0, DATE, a_table, faults_of

READ = (*(f"{name}.json" for name in ("spec", *PHASES, "error")), PER_IMAGE)
"""The files of a run that reports read."""
LARGEST = 64 * 2**20
"""Bytes of a JSON or per-image file; a larger one is not read."""


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
    compare_runs(runs)
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
    parts = {"records": _check_records, "training": _check_training, "evaluation": check_evaluation}
    for what, check in (parts | {"profile": _check_profile}).items():
        try:
            check(run)
        except (*_UNREADABLE, SafetensorError) as error:
            run.wrong("", what, f"{type(error).__name__} {error}", "complete")
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
        if run.whole and not isinstance(environment_of(run, phase).get("versions"), Mapping):
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
            check_owner(run, file, f"checkpoints/{name}.safetensors")
    if "eval" in run.bodies:
        points = list(run.bodies["eval"]["results"]["points"])
        run.equal("train.json", "points", sorted(results["points"]), sorted(points))


def _is_there(file: Path) -> bool:
    return file.is_symlink() or file.exists()


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

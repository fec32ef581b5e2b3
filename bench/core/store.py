"""Where results lie: one folder a run, one JSON file a phase, written in one step.

    <root>/runs/<run_id>/{spec,train,eval,profile,error}.json   beside per_image.safetensors and checkpoints/
    <root>/weights/                                             pretrained weights that runs started from

A phase is complete exactly when its file exists, so the store alone says what is left to do.
"""

import hashlib
import json
import secrets
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bench.core.errors import NotAtHand, UserError
from bench.core.files import damaged, read_json, write_json
from bench.core.lease import TTL_S, Busy, lease
from bench.core.names import is_run_id
from bench.core.record import Record, parse_record
from bench.core.settings import parse_spec
from bench.core.spec import RunSpec

__all__ = ["PHASES", "Busy", "Store", "digest"]

PHASES = ("train", "eval", "profile")


class Store:
    """The results directory `root`. Opening it makes sure that it can be written, before any work is done.

    With `writable=False` (reports) nothing is created, and the directory must exist. Raises UserError when
    not.

    >>> import tempfile
    >>> store, spec = Store(tempfile.mkdtemp()), RunSpec("us_net", "us_mobilenet_micro8")
    >>> folder = store.open_run(spec)
    >>> store.write(spec.run_id, "train", {"results": {"steps": 10}})
    >>> store.has(spec.run_id, "train"), store.has(spec.run_id, "eval"), store.read(spec.run_id, "train")["results"]
    (True, False, {'steps': 10})
    """

    def __init__(self, root: str | Path, writable: bool = True):
        self.root = Path(root)
        self._runs = self.root / "runs"
        self.weights = self.root / "weights"
        if writable:
            self._prepare()
        elif not self.root.is_dir():
            raise UserError(f"there is no results directory {self.root}")

    def _prepare(self) -> None:
        probe = self._runs / f".probe.{secrets.token_hex(6)}.tmp"
        try:
            self._runs.mkdir(parents=True, exist_ok=True)
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            raise UserError(f"the results directory {self.root} cannot be written: {error.strerror}") from error

    def path(self, run_id: str) -> Path:
        """The folder of a run. Raises UserError for a text that cannot be a run_id (it might leave the
        store).
        """
        if not is_run_id(run_id):
            raise UserError(f"{run_id!r} is not the name of a run")
        return self._runs / run_id

    def runs(self) -> list[str]:
        """The run_ids in the store, sorted."""
        return sorted(spec.parent.name for spec in self._runs.glob("*/spec.json"))

    def open_run(self, spec: RunSpec) -> Path:
        """The run's folder, with its spec in it. Raises UserError when another spec lies there."""
        folder = self.path(spec.run_id)
        file = folder / "spec.json"
        if not file.exists():
            _make(folder)
            write_json(file, spec.to_json())
        elif read_json(file) != spec.to_json() and self.read_spec(spec.run_id) != spec:
            raise damaged(file, "it describes another run")
        return folder

    def read_spec(self, run_id: str) -> RunSpec:
        """The spec of a stored run. Raises UserError when it is missing, damaged, or that of another run."""
        file = self.path(run_id) / "spec.json"
        if not file.exists():
            raise NotAtHand(f"there is no run {run_id} in {self.root}")
        spec = parse_spec(read_json(file), f"{file}: ")
        if spec.run_id != run_id:
            raise damaged(file, f"it describes {spec.run_id}")
        return spec

    def has(self, run_id: str, phase: str) -> bool:
        """Whether the phase is complete."""
        return self._file(run_id, phase).exists()

    def write(self, run_id: str, phase: str, body: Mapping[str, Any]) -> None:
        """Completes a phase: body (`records`, `results`, `environment`, `timing`, ...) in one step, with its
        digest.

        Records may be Record objects or their JSON form. Raises ValueError when a record belongs to another
        run or a value is not JSON, UserError when the disk refuses.
        """
        written = dict(body)
        written["records"] = [r.to_json() if isinstance(r, Record) else r for r in written.get("records", [])]
        whole = json.loads(json.dumps(written, allow_nan=False))  # as it will be read, so that the digest holds
        whole.setdefault("results", {})
        for item in (whole, *whole["records"]):
            if item.setdefault("run_id", run_id) != run_id:
                raise ValueError(f"a record of {item['run_id']} cannot be written to {run_id}/{phase}")
        head = {"run_id": run_id, "phase": phase, "digest": digest(whole["records"], whole["results"])}
        file = self._file(run_id, phase)
        _make(file.parent)
        write_json(file, head | {key: value for key, value in whole.items() if key not in head})

    def read(self, run_id: str, phase: str) -> dict[str, Any]:
        """A complete phase; `records` as Record objects, everything else as JSON values.

        Raises UserError, naming the file, when it is missing, damaged, of another run, or was changed by
        hand.
        """
        file = self._file(run_id, phase)
        if not file.exists():
            raise UserError(f"{run_id} has no complete {phase} phase in {self.root}")
        body = read_json(file)
        for key, wanted in (("run_id", run_id), ("phase", phase)):
            if body.get(key) != wanted:
                raise damaged(file, f"its {key} is {body.get(key)!r}, not {wanted!r}")
        records, results = body.get("records"), body.get("results")
        if not isinstance(records, list) or not isinstance(results, dict):
            raise damaged(file, "it lacks its records or results")
        if digest(records, results) != body.get("digest"):
            raise damaged(file, "its records or results do not match its digest")
        for key in ("checkpoints", "digests"):
            value = results.get(key, {})
            if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
                raise damaged(file, f"its {key} are no object of names and digests")
        try:
            return body | {"records": [parse_record(record) for record in records]}
        except UserError as error:
            raise damaged(file, str(error)) from error

    def write_error(self, run_id: str, phase: str, error: BaseException) -> None:
        """Records why a phase failed, in error.json, with its traceback."""
        body = {
            "run_id": run_id,
            "phase": phase,
            "type": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        folder = self.path(run_id)
        _make(folder)
        write_json(folder / "error.json", body)

    def read_error(self, run_id: str) -> dict[str, Any] | None:
        """What `write_error` wrote, or None when the run has not failed."""
        file = self.path(run_id) / "error.json"
        return read_json(file) if file.exists() else None

    def clear_error(self, run_id: str) -> None:
        """Forgets the failure of a run, when it is tried again."""
        (self.path(run_id) / "error.json").unlink(missing_ok=True)

    def lease(self, run_id: str, ttl_s: float = TTL_S) -> AbstractContextManager[None]:
        """The exclusive claim on a run, as a context manager. Raises Busy while a live process holds it."""
        folder = self.path(run_id)
        _make(folder)
        return lease(folder, ttl_s)

    def _file(self, run_id: str, phase: str) -> Path:
        if phase not in PHASES:
            raise ValueError(f"a phase is one of {', '.join(PHASES)}, not {phase!r}")
        return self.path(run_id) / f"{phase}.json"


def digest(records: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of records and results: no time, host or load is in it."""
    text = json.dumps({"records": records, "results": results}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder}: {error.strerror}") from error

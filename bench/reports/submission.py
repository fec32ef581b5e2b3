"""A run as one archive that another machine can verify, with its results as the Hugging Face hub reads them."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.files import damaged
from bench.core.metrics import METRICS
from bench.core.names import is_part
from bench.core.store import PHASES, Store
from bench.reports.inspection import PER_IMAGE
from bench.reports.runs import Run, read_runs

FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # equal runs give equal archives
LARGEST = 64 * 2**30
"""Bytes that an archive may unpack to."""


def chain(runs: dict[str, Run], run_id: str) -> list[Run]:
    """A run and the runs that it starts from, the first of them first.

    Raises UserError where one of them is not there or not evaluated.
    """
    parents_first: list[Run] = []
    name: str | None = run_id
    while name is not None:
        if name not in runs:
            raise UserError(f"there is no run {name} in these results")
        if "eval" not in runs[name].bodies:
            raise UserError(f"{name} is not evaluated, so there is nothing to submit")
        parents_first.insert(0, runs[name])
        name = runs[name].spec.init_from
    return parents_first


def write_archive(root: Path, run_id: str, out: Path, weights: bool, hub_dataset: str | None) -> list[str]:
    """Write a run, and what it starts from, to a zip file; returns the names of the files in it.

    Spec, phases and per-image scores lie in it as in a results directory (`runs/<run_id>/...`), with checkpoints where
    `weights`, beside `.eval_results/<run_id>.yaml`. Raises UserError as `chain`, for checkpoints that are not there,
    and where the disk refuses.
    """
    runs = {run.run_id: run for run in read_runs(root)}
    parts = chain(runs, run_id)
    files: dict[str, Path | bytes] = {}
    for run in parts:
        names = ["spec.json", *(f"{phase}.json" for phase in PHASES if phase in run.bodies), PER_IMAGE]
        if weights:
            listed = run.bodies["train"]["results"].get("checkpoints", {}) if "train" in run.bodies else {}
            if strange := [name for name in listed if not is_part(name)]:
                raise UserError(f"{run.run_id} names a checkpoint {strange[0]!r}, which is no name of a file")
            names += [f"checkpoints/{name}.safetensors" for name in sorted(listed)]
            names += ["checkpoints/data.json"] if (run.folder / "checkpoints" / "data.json").is_file() else []
        for name in names:
            if not (run.folder / name).is_file():
                raise UserError(
                    f"{run.folder / name} is not there; leave --weights out, or submit where it was trained"
                )
            files[f"runs/{run.run_id}/{name}"] = run.folder / name
    files[f".eval_results/{run_id}.yaml"] = eval_results(parts[-1], hub_dataset).encode()
    try:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                data = content if isinstance(content, bytes) else content.read_bytes()
                archive.writestr(zipfile.ZipInfo(name, FIXED_TIME), data, zipfile.ZIP_DEFLATED)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})") from error
    return list(files)


def eval_results(run: Run, hub_dataset: str | None) -> str:
    """The headline of each point as YAML, an entry for each; strings are quoted as in JSON, which YAML reads.

    hub_dataset: the dataset's id on the hub; its name here where None.
    """
    date = run.bodies["eval"].get("timing", {}).get("date")
    lines = []
    for point in run.points.values():
        score = point.score
        notes = f"Slicebench run {run.run_id}, point {point.name}: {METRICS[score.metric].text}; {score.split}, "
        notes += f"{score.n} images, seed {run.spec.seed}, {point.records['madds'].value:.0f} multiply-adds per image"
        entry: dict[str, Any] = {
            "dataset": {"id": hub_dataset or run.spec.data.name, "task_id": score.metric},
            "value": round(100 * score.value, 4),
        }
        entry |= ({"date": date} if date else {}) | {"notes": notes}
        first, *others = (f"{key}: {json.dumps(value)}" for key, value in entry.items())
        lines += [f"- {first}", *(f"  {line}" for line in others)]
    return "\n".join(lines) + "\n"


@contextmanager
def results_at(path: Path) -> Iterator[Path]:
    """A results directory: `path` itself, or what an archive of `submit` holds, unpacked while it is looked at.

    Raises UserError for a file that is no such archive, and for one that would be too large.
    """
    if not path.is_file():
        yield path
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise damaged(path, "it is no archive of slicebench submit") from error
    with archive, tempfile.TemporaryDirectory() as folder:
        if sum(each.file_size for each in archive.infolist()) > LARGEST:
            raise damaged(path, f"it would unpack to more than {LARGEST >> 30} GB")
        wanted = [name for name in archive.namelist() if Path(name).parts[:1] == ("runs",)]
        if not wanted:
            raise damaged(path, "it holds no runs")
        try:
            archive.extractall(folder, wanted)  # names that lead out of the folder are led back into it
        except (zipfile.BadZipFile, OSError, RuntimeError) as error:
            raise damaged(path, f"it cannot be unpacked ({error})") from error
        Store(Path(folder), writable=False)
        yield Path(folder)

"""From a results directory to all its tables and figures."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import bench
from bench.core.ablation import Group, read_ablations
from bench.reports import figures
from bench.reports.ablations import sections, write_ablations
from bench.reports.authors import write_authors
from bench.reports.consistent import Problem
from bench.reports.controls import controls_frame, write_controls
from bench.reports.curves import curves_frame, write_curves
from bench.reports.detection import detection_frame, write_detection
from bench.reports.differences import scores_by_row
from bench.reports.failures import write_failures
from bench.reports.frame import observations, points_frame
from bench.reports.gates import gates_frame, write_gates
from bench.reports.latency import latency_frame, write_latency
from bench.reports.layout import Stamp
from bench.reports.leaderboard import leaderboard_frame, refuse_too_many, write_leaderboard
from bench.reports.meters import meters_frame, write_meters
from bench.reports.reported import ReportedRow, load_reported, write_reported
from bench.reports.runs import Run, records_digest, sound_runs
from bench.reports.style import KINDS

TABLES = (
    "leaderboard",
    "latency",
    "meters",
    "controls",
    "gates",
    "ablation_*",
    "curves",
    "detection",
    "authors",
    "reported",
    "failures",
)
FIGURES = ("accuracy_madds", "accuracy_latency", "routing")


def write_all(results_root: Path, out_root: Path, command: str, *, ranks: bool) -> list[Path]:
    """See `bench.reports.generate`."""
    runs, problems = sound_runs(results_root)
    stamp = Stamp(command, records_digest(runs))
    quoted = load_reported(reported_folder(results_root))
    apart = lambda file, error: problems.append(Problem(f"ablations/{file.name}", "content", error.reason, "readable"))
    ablations = read_ablations(results_root, apart)
    if problems:
        bad = len({problem.file.rpartition("/")[0] for problem in problems})
        warnings.warn(f"{bad} runs are set apart, for what failures.md says; the first: {problems[0]}", stacklevel=1)
    written = write_failures(out_root / "tables", stamp, runs, problems)
    written += _write_measured(out_root, stamp, runs, ablations, ranks)
    written += write_authors(out_root / "tables", stamp, runs, quoted)
    written += write_reported(out_root / "tables", Stamp(command, _digest_of(quoted)), quoted)
    _remove_stale(out_root, written)
    return sorted(written)


def _write_measured(
    out_root: Path, stamp: Stamp, runs: Sequence[Run], ablations: Mapping[str, Sequence[Group]], ranks: bool
) -> list[Path]:
    """The tables and figures of what was run here; nothing before the first run is evaluated."""
    points = points_frame(runs)
    if points.empty:
        return []
    if ranks:
        refuse_too_many(points)
    folder, pictures = out_root / "tables", out_root / "figures"
    observed, latency, scores = observations(runs), latency_frame(runs), scores_by_row(runs)
    board, controls = leaderboard_frame(points, runs, scores, ranks=ranks), controls_frame(points, runs, scores)
    studies = {recipe: sections(groups, points, runs, scores) for recipe, groups in ablations.items()}
    left_out = sum("eval" in run.missing for run in runs)
    return [
        *write_leaderboard(folder, stamp, board, left_out),
        *write_controls(folder, stamp, controls),
        *write_gates(folder, stamp, gates_frame(points, runs, controls)),
        *write_ablations(folder, stamp, studies),
        *write_curves(folder, stamp, curves_frame(observed)),
        *write_latency(folder, stamp, latency),
        *write_meters(folder, stamp, meters_frame(runs)),
        *write_detection(folder, stamp, detection_frame(runs)),
        *figures.write_accuracy_madds(pictures, points),
        *figures.write_accuracy_latency(pictures, points, latency),
        *figures.write_routing(pictures, points, observed),
    ]


def reported_folder(results_root: Path) -> Path:
    """Where the reported rows lie: below the results directory, else in the checkout that this package is in."""
    own = results_root / "reported"
    return own if own.is_dir() else Path(bench.__file__).parent.parent / "results" / "reported"


def _digest_of(rows: Iterable[ReportedRow]) -> str:
    return hashlib.sha256(json.dumps([vars(row) for row in rows], sort_keys=True).encode()).hexdigest()


def _remove_stale(out_root: Path, written: Sequence[Path]) -> None:
    """Remove what an earlier report wrote and this one did not, so that a report never depends on the one before."""
    patterns = [f"tables/{name}.{kind}" for name in TABLES for kind in ("md", "tex", "csv")]
    patterns += [f"figures/{name}_*.{kind}" for name in FIGURES for kind in KINDS]
    for pattern in patterns:
        for path in out_root.glob(pattern):
            if path not in written:
                path.unlink()

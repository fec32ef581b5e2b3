"""From a results directory to all its tables, figures and the site."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from bench.core.ablation import Group, read_ablations
from bench.core.files import TEMPORARY
from bench.reports import figures
from bench.reports.ablations import ablations_pages, sections
from bench.reports.authors import authors_pages
from bench.reports.controls import controls_frame, controls_pages
from bench.reports.curves import curves_frame, curves_pages
from bench.reports.detection import detection_frame, detection_pages
from bench.reports.differences import scores_by_row
from bench.reports.facts import Facts
from bench.reports.failures import failures_pages
from bench.reports.frame import observations, points_frame
from bench.reports.gates import gates_frame, gates_pages
from bench.reports.inspection import Problem
from bench.reports.latency import latency_frame, latency_pages
from bench.reports.layout import Chosen, Page, Stamp
from bench.reports.leaderboard import leaderboard_frame, leaderboard_pages, refuse_too_many
from bench.reports.meters import meters_frame, meters_pages
from bench.reports.reported import ReportedRow, load_reported, reported_folder, reported_pages
from bench.reports.runs import Run, records_digest, sound_runs
from bench.reports.site.board import Store
from bench.reports.site.write import write_site
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


def write_all(
    results_root: Path, out_root: Path, command: str, *, ranks: bool, chosen: Chosen, facts: Facts
) -> list[Path]:
    """See `bench.reports.generate`."""
    runs, problems = sound_runs(results_root)
    apart = lambda file, error: problems.append(Problem(f"ablations/{file.name}", "content", error.reason, "readable"))
    ablations = read_ablations(results_root, apart)
    if problems:
        bad = len({problem.file.rpartition("/")[0] for problem in problems})
        warnings.warn(f"{bad} runs are set apart, for what failures.md says; the first: {problems[0]}", stacklevel=1)
    quoted, measured = load_reported(reported_folder(results_root)), _measured(out_root, runs, ablations, ranks)
    pages = [*failures_pages(runs, problems), *measured.pages, *authors_pages(runs, quoted)]
    stamp, written = Stamp(command, records_digest(runs)), measured.figures
    others = reported_pages(quoted)
    chosen.check([*pages, *others])
    for page in pages:
        written += page.write(out_root / "tables", stamp, chosen)
    for page in others:
        written += page.write(out_root / "tables", Stamp(command, _digest_of(quoted)), chosen)
    store = Store(results_root, runs, measured.board, measured.controls, measured.gates, measured.latency, quoted)
    written += write_site(out_root / "site", stamp, store, [*pages, *others], facts)
    _remove_stale(out_root, written)
    return sorted(written)


@dataclass(frozen=True)
class _Measured:
    """What was run here, as pages, figures, and the frames that the site shows; empty before a run is evaluated."""

    pages: list[Page] = field(default_factory=list)
    figures: list[Path] = field(default_factory=list)
    board: pd.DataFrame = field(default_factory=pd.DataFrame)
    controls: pd.DataFrame = field(default_factory=pd.DataFrame)
    gates: pd.DataFrame = field(default_factory=pd.DataFrame)
    latency: pd.DataFrame = field(default_factory=pd.DataFrame)


def _measured(out_root: Path, runs: Sequence[Run], ablations: Mapping[str, Sequence[Group]], ranks: bool) -> _Measured:
    points, latency = points_frame(runs), latency_frame(runs)
    if points.empty:
        return _Measured(latency=latency)
    if ranks:
        refuse_too_many(points)
    scores, observed = scores_by_row(runs), observations(runs)
    board, controls = leaderboard_frame(points, runs, scores, ranks=ranks), controls_frame(points, runs, scores)
    gates = gates_frame(points, runs, controls)
    studies = {name: sections(groups, points, runs, scores) for name, groups in ablations.items()}
    pages = [
        *leaderboard_pages(board, sum("eval" in run.missing for run in runs)),
        *controls_pages(controls),
        *gates_pages(gates),
        *ablations_pages(studies),
        *curves_pages(curves_frame(observed)),
        *latency_pages(latency),
        *meters_pages(meters_frame(runs)),
        *detection_pages(detection_frame(runs)),
    ]
    pictures = out_root / "figures"
    drawn = [
        *figures.write_accuracy_madds(pictures, points),
        *figures.write_accuracy_latency(pictures, points, latency),
        *figures.write_routing(pictures, points, observed),
    ]
    return _Measured(pages, drawn, board, controls, gates, latency)


def _digest_of(rows: Iterable[ReportedRow]) -> str:
    return hashlib.sha256(json.dumps([vars(row) for row in rows], sort_keys=True).encode()).hexdigest()


def _remove_stale(out_root: Path, written: Sequence[Path]) -> None:
    """Remove what an earlier report wrote and this one did not, so that a report never depends on the one before: what
    one left behind that was killed, too."""
    patterns = [f"tables/{name}.{kind}" for name in TABLES for kind in ("md", "tex", "csv")]
    patterns += [f"figures/{name}_*.{kind}" for name in FIGURES for kind in KINDS]
    patterns += ["site/*.html", "site/assets/*"]
    patterns += [f"{folder}/{TEMPORARY}" for folder in ("tables", "figures", "site", "site/assets")]
    for pattern in patterns:
        for path in out_root.glob(pattern):
            if path not in written:
                path.unlink()

"""From a results directory to all its tables, figures and the site."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from bench.core.ablation import read_ablations
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
from bench.reports.latency import latency_frame, latency_pages
from bench.reports.layout import Chosen, Stamp
from bench.reports.leaderboard import leaderboard_frame, leaderboard_pages, refuse_too_many
from bench.reports.meters import meters_frame, meters_pages
from bench.reports.reported import ReportedRow, load_reported, reported_folder, reported_pages
from bench.reports.runs import read_runs, records_digest
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
    runs = read_runs(results_root)
    quoted = load_reported(reported_folder(results_root))
    pages, written, board = failures_pages(runs), [], pd.DataFrame()
    points = points_frame(runs)
    controls, gates, latency = pd.DataFrame(), pd.DataFrame(), latency_frame(runs)
    if not points.empty:  # before the first run is evaluated there is nothing to show
        if ranks:
            refuse_too_many(points)
        scores = scores_by_row(runs)
        board, controls = leaderboard_frame(points, runs, scores, ranks=ranks), controls_frame(points, runs, scores)
        gates = gates_frame(points, runs, controls)
        studies = {
            name: sections(groups, points, runs, scores) for name, groups in read_ablations(results_root).items()
        }
        observed = observations(runs)
        pages += [
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
        written += figures.write_accuracy_madds(pictures, points)
        written += figures.write_accuracy_latency(pictures, points, latency)
        written += figures.write_routing(pictures, points, observed)
    pages += authors_pages(runs, quoted)
    others = reported_pages(quoted)
    chosen.check([*pages, *others])
    stamp = Stamp(command, records_digest(runs))
    for page in pages:
        written += page.write(out_root / "tables", stamp, chosen)
    for page in others:
        written += page.write(out_root / "tables", Stamp(command, _digest_of(quoted)), chosen)
    store = Store(results_root, runs, board, controls, gates, latency, quoted)
    written += write_site(out_root / "site", stamp, store, [*pages, *others], facts)
    _remove_stale(out_root, written)
    return sorted(written)


def _digest_of(rows: Iterable[ReportedRow]) -> str:
    return hashlib.sha256(json.dumps([vars(row) for row in rows], sort_keys=True).encode()).hexdigest()


def _remove_stale(out_root: Path, written: Sequence[Path]) -> None:
    """Remove what an earlier report wrote and this one did not, so that a report never depends on the one before."""
    patterns = [f"tables/{name}.{kind}" for name in TABLES for kind in ("md", "tex", "csv")]
    patterns += [f"figures/{name}_*.{kind}" for name in FIGURES for kind in KINDS]
    patterns += ["site/*.html", "site/assets/*"]
    for pattern in patterns:
        for path in out_root.glob(pattern):
            if path not in written:
                path.unlink()

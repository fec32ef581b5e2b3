"""The generated tables: what each shows, in which order, and the sentences that say how to read it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.reports.compare import HULL, Row
from bench.reports.curves import BUDGETS, REFERENCE
from bench.reports.layout import (
    NONE,
    Column,
    Stamp,
    count,
    fixed,
    integer,
    interval,
    markdown_table,
    signed,
    write_csv,
    write_markdown,
    yes,
)
from bench.reports.reported import ReportedRow
from bench.reports.runs import Run

PERCENT, PERCENT_CSV = fixed(2, 100), fixed(4, 100)


def _name(name: str, title: str | None = None) -> Column:
    return Column(name, title or name, right=False)


NAMES = [_name("method"), _name("model"), _name("variant"), _name("point")]
PLACE = [Column("dataset", None), Column("split", None)]

LEADERBOARD = [
    *PLACE,
    Column("rank", "rank", integer, integer),
    *NAMES,
    _name("kind"),
    Column("top1_mean", "top-1 %", PERCENT, PERCENT_CSV, "top1_percent"),
    Column("top1_std", "std", PERCENT, PERCENT_CSV, "top1_percent_std"),
    Column("interval", "95 % interval", plain=None),
    Column("top1_low", None, plain=PERCENT_CSV, header="top1_percent_low"),
    Column("top1_high", None, plain=PERCENT_CSV, header="top1_percent_high"),
    Column("seeds", "seeds", integer, integer),
    Column("images", None, plain=integer),
    Column("madds_mean", "MAdds/image", count, fixed(2)),
    Column("madds_std", None, plain=fixed(2)),
    Column("madds_min", None, plain=integer),
    Column("madds_max", None, plain=integer),
    Column("madds_relative", "relative", fixed(3), fixed(6)),
    Column("params_stored", "params stored", count, fixed(2)),
    Column("params_active", "params active", count, fixed(2)),
    Column("on_front", "on front", yes, yes, right=False),
    Column("config_id", None),
]
LEADERBOARD_NOTE = (
    "Mean and sample standard deviation over seeds, with the 95 % t interval. A rank is one plus the number of rows "
    "significantly better in top-1 (paired bootstrap over seeds and images, Holm's correction over a row's comparisons, "
    "5 %); rows that cannot be told apart share it, and fewer than three seeds get none. MAdds are multiply-adds of "
    "convolutions and matrix products, mean over the images, gates included; relative is to the costliest row of the "
    "same model. On front: no other row is cheaper and as good."
)


def write_leaderboard(
    folder: Path, stamp: Stamp, points: pd.DataFrame, ranks: dict[Row, int | None], left_out: int
) -> list[Path]:
    """leaderboard.md and .csv: one row for each point over its seeds, best first, a section for each split."""
    shown = points.assign(
        rank=pd.Series([ranks[row.config_id, row.point] for row in points.itertuples()], dtype=object),
        kind=[f"{row.kind} (control)" if row.control else row.kind for row in points.itertuples()],
        interval=[interval(row.top1_low, row.top1_high) for row in points.itertuples()],
    )
    parts = ["# Leaderboard", LEADERBOARD_NOTE]
    for split, group in shown.groupby("split", sort=True):
        parts += [f"## {split}, {group['images'].iloc[0]:,} images", markdown_table(group, _used(group, LEADERBOARD))]
    if left_out:
        parts.append(f"Not in this table, because not evaluated: {left_out} runs (see failures.md).")
    return [
        write_markdown(folder / "leaderboard.md", stamp, *parts),
        write_csv(folder / "leaderboard.csv", stamp, shown, LEADERBOARD),
    ]


LATENCY = [
    Column("dataset", None),
    *NAMES,
    _name("form"),
    _name("device"),
    Column("batch", "batch", integer, integer),
    Column("threads", "threads", integer, integer),
    Column("median_ms", "median ms", fixed(3), fixed(6)),
    Column("iqr_ms", "IQR ms", fixed(3), fixed(6)),
    Column("p90_ms", "p90 ms", fixed(3), fixed(6)),
    Column("p99_ms", "p99 ms", fixed(3), fixed(6)),
    Column("images_per_s", "images/s", count, fixed(3)),
    Column("runs", "runs", integer, integer),
    Column("calls", "calls", integer, integer),
    Column("busy", "busy", yes, yes, right=False),
    Column("config_id", None),
]
LATENCY_NOTE = (
    "Wall time of one forward of one batch, in ms; each statistic is the median over the runs (seeds). Timings depend on "
    "the machine and are not part of the digest above. Busy: other work ran while at least one of the runs was timed."
)


def write_latency(folder: Path, stamp: Stamp, latency: pd.DataFrame) -> list[Path]:
    """latency.md and .csv; nothing when no run was profiled."""
    if latency.empty:
        return []
    shown = latency.assign(images_per_s=latency["batch"] / latency["median_ms"] * 1e3)
    parts = ["# Latency", LATENCY_NOTE]
    for dataset, group in shown.groupby("dataset", sort=True):
        parts += [f"## {dataset}", markdown_table(group, _used(group, LATENCY))]
    return [
        write_markdown(folder / "latency.md", stamp, *parts),
        write_csv(folder / "latency.csv", stamp, shown, LATENCY),
    ]


CONTROLS = [
    *PLACE,
    *NAMES,
    _name("control"),
    Column("seeds", "seeds", integer, integer),
    Column("top1_mean", "top-1 %", PERCENT, PERCENT_CSV, "top1_percent"),
    Column("control_top1", "control %", PERCENT, PERCENT_CSV, "control_top1_percent"),
    Column("madds_mean", "MAdds/image", count, fixed(2)),
    Column("control_madds", "control MAdds", count, fixed(2)),
    Column("difference", "difference", signed(2, 100), PERCENT_CSV, "difference_percent"),
    Column("interval", "95 % interval", plain=None),
    Column("low", None, plain=PERCENT_CSV, header="difference_percent_low"),
    Column("high", None, plain=PERCENT_CSV, header="difference_percent_high"),
    Column("p_holm", "p (Holm)", fixed(4), fixed(6)),
    _name("verdict"),
    Column("config_id", None),
]
CONTROLS_NOTE = (
    "Each dynamic point against what the same checkpoint reaches without looking at the image: `random_gate` sends "
    f"images to the same choices at random, in the gate's own proportions; `{HULL}` is the best blind mixture of the "
    "fixed sub-networks whose mean MAdds are at most the gate's. Differences in percentage points, by the paired bootstrap "
    "over seeds and images, on the seeds that both have; p with Holm's correction over the table of a split."
)


def write_controls(folder: Path, stamp: Stamp, controls: pd.DataFrame) -> list[Path]:
    """controls.md and .csv; nothing when no control was run on a dynamic point."""
    if controls.empty:
        return []
    shown = controls.assign(interval=[interval(row.low, row.high) for row in controls.itertuples()])
    parts = ["# Dynamic points against their controls", CONTROLS_NOTE]
    for split, group in shown.groupby("split", sort=True):
        parts += [f"## {split}", markdown_table(group, _used(group, CONTROLS))]
    return [
        write_markdown(folder / "controls.md", stamp, *parts),
        write_csv(folder / "controls.csv", stamp, shown, CONTROLS),
    ]


CURVES = [
    *PLACE,
    *NAMES[:3],
    Column("points", None, plain=integer),
    Column("measure", None),
    Column("madds_low", None, plain=fixed(2)),
    Column("madds_high", None, plain=fixed(2)),
    *(Column(name, None, plain=PERCENT_CSV, header=f"{name}_percent") for name in ("mean", "std", "low", "high")),
    Column("n", None, plain=integer, header="seeds"),
    Column("config_id", None),
]
CURVES_NOTE = (
    "The points of a method as one curve, in percent with the 95 % t interval over seeds. Accuracy at a budget of MAdds is "
    "read off the curve's front, interpolated in the logarithm of the MAdds; a dash where the curve does not get down to "
    "it. The area is the mean accuracy over the logarithm of the MAdds on the range that all curves of several points "
    f"cover; the hypervolume is the dominated share of the box up to {REFERENCE} times the costliest point."
)


def write_curves(folder: Path, stamp: Stamp, curves: pd.DataFrame) -> list[Path]:
    """curves.md (a row for each curve) and curves.csv (long form)."""
    parts = ["# Accuracy-MAdds curves", CURVES_NOTE]
    for (split, model), group in curves.groupby(["split", "model"], sort=True):
        wide = _wide(group)
        columns = [_name(name) for name in ("method", "variant")] + [Column("points", "points", integer)]
        columns += [Column(title, title) for title in wide.columns if title not in ("method", "variant", "points")]
        parts += [f"## {split}, {model}", markdown_table(wide, _used(wide, columns))]
    return [
        write_markdown(folder / "curves.md", stamp, *parts),
        write_csv(folder / "curves.csv", stamp, curves, CURVES),
    ]


def _wide(group: pd.DataFrame) -> pd.DataFrame:
    """One row for each curve, one column for each measure."""
    accuracies = (f"top-1 at {fraction:.0%} of the MAdds" for fraction in BUDGETS)
    titles = dict(zip(sorted(set(group.loc[group["measure"] == "accuracy", "madds_low"])), accuracies, strict=True))
    rows: dict[str, dict] = {}
    for row in group.itertuples():
        title = titles[row.madds_low] + f" ({count(row.madds_low)})" if row.measure == "accuracy" else row.measure
        if row.measure == "area":
            title = f"area from {count(row.madds_low)} to {count(row.madds_high)}"
        line = rows.setdefault(str(row.config_id), {n: getattr(row, n) for n in ("method", "variant", "points")})
        spread = "" if pd.isna(row.low) else f" {interval(row.low, row.high)}"
        line[title] = NONE if pd.isna(row.mean) else PERCENT(row.mean) + spread
    return pd.DataFrame(list(rows.values()))


REPORTED = [
    _name("method"),
    _name("model"),
    _name("point"),
    Column("top1", "top-1 % (reported)", repr),
    Column("top5", "top-5 % (reported)", repr),
    Column("madds_printed", "MAdds (reported)"),
    Column("madds_exact", "MAdds (our count)", count),
    _name("source"),
    _name("table"),
    _name("convention"),
    _name("note"),
]


def write_reported(folder: Path, stamp: Stamp, rows: Sequence[ReportedRow]) -> list[Path]:
    """reported.md: numbers quoted from others, with where they stand and how they were counted."""
    if not rows:
        return []
    frame = pd.DataFrame([vars(row) for row in rows]).astype(object)
    frame = frame.where(frame.notna(), None)
    note = (
        "Quoted, not measured here: what the named source prints, after its own training and counting. These numbers are "
        "never ranked against, or put into a column with, those of the leaderboard."
    )
    parts = ["# Reported by others", note]
    for dataset, group in frame.groupby("dataset", sort=True):
        parts += [f"## {dataset}", markdown_table(group, _used(group, REPORTED))]
    return [write_markdown(folder / "reported.md", stamp, *parts)]


def write_failures(folder: Path, stamp: Stamp, runs: Sequence[Run]) -> list[Path]:
    """failures.md: runs that failed, and runs that are not finished; nothing when all are complete."""
    names = [_name(name) for name in ("run_id", "method", "model", "dataset")] + [Column("seed", "seed", integer)]
    failed = pd.DataFrame([_named(run) | _failure(run) for run in runs if run.error])
    unfinished = pd.DataFrame(
        [_named(run) | {"missing": ", ".join(run.missing)} for run in runs if run.missing and not run.error]
    )
    parts = ["# Runs that are not complete"]
    if not failed.empty:
        what = [_name("phase"), _name("error"), _name("message")]
        parts += ["## Failed", markdown_table(failed, [*names, *what])]
    if not unfinished.empty:
        parts += ["## Not finished", markdown_table(unfinished, [*names, _name("missing", "phases missing")])]
    return [write_markdown(folder / "failures.md", stamp, *parts)] if len(parts) > 1 else []


def _named(run: Run) -> dict:
    spec = run.spec
    return {"run_id": run.run_id, "method": spec.method, "model": spec.model, "dataset": spec.data.name, "seed": spec.seed}


def _failure(run: Run) -> dict:
    error = run.error or {}
    first_line = str(error.get("message", "")).strip().partition("\n")[0]
    return {"phase": error.get("phase", ""), "error": error.get("type", ""), "message": first_line}


def _used(frame: pd.DataFrame, columns: Sequence[Column]) -> list[Column]:
    """The columns without those that are empty in every row of a section, such as `variant` where there is none."""
    return [column for column in columns if not frame[column.name].map(lambda value: value is None or value == "").all()]

"""The generated tables: what each shows, in which order, and the sentences that say how to read it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.core.metrics import METRICS
from bench.reports.compare import HULL, Row
from bench.reports.curves import REFERENCE
from bench.reports.layout import (
    NONE,
    SCORE,
    Column,
    Stamp,
    count,
    fixed,
    integer,
    interval,
    markdown_table,
    metric_of,
    name_column,
    number,
    signed,
    titled_by,
    used,
    write_csv,
    write_markdown,
    yes,
)
from bench.reports.rows import groups_of, known, rows_of

PERCENT, PERCENT_CSV = fixed(2, 100), fixed(4, 100)


NAMES = [name_column("method"), name_column("model"), name_column("variant"), name_column("point")]
PLACE = [Column("dataset", None), Column("split", None)]

LEADERBOARD = [
    *PLACE,
    Column("rank", "rank", integer, integer),
    *NAMES,
    name_column("kind"),
    Column("metric", None),
    Column("score_mean", f"{SCORE} %", PERCENT, PERCENT_CSV, "score_percent"),
    Column("score_std", "std", PERCENT, PERCENT_CSV, "score_percent_std"),
    Column("interval", "95 % interval", plain=None),
    Column("score_low", None, plain=PERCENT_CSV, header="score_percent_low"),
    Column("score_high", None, plain=PERCENT_CSV, header="score_percent_high"),
    Column("seeds", "seeds", integer, integer),
    Column("images", None, plain=integer),
    Column("madds_mean", "MAdds/image", count, number),
    Column("madds_std", None, plain=number),
    Column("madds_min", None, plain=integer),
    Column("madds_max", None, plain=integer),
    Column("madds_relative", "relative", fixed(3), fixed(6)),
    Column("madds_theoretical", "theoretical MAdds", count, number),
    Column("params_stored", "params stored", count, number),
    Column("params_active", "params active", count, number),
    Column("on_front", "on front", yes, yes, right=False),
    Column("config_id", None),
]
LEADERBOARD_NOTE = """
Mean and sample standard deviation over seeds, with the 95 % t interval. A rank is one plus the number of rows
significantly better in top-1 (paired bootstrap over seeds and images, Holm's correction over a row's comparisons, 5 %);
rows that cannot be told apart share it, and fewer than three seeds get none. MAdds are multiply-adds of convolutions
and matrix products, mean over the images, gates included; relative is to the costliest row of the table. On front: no
other row is cheaper and as good, or as cheap and better.
"""
THEORETICAL_NOTE = """
Theoretical MAdds: without products that the method makes zero but executes all the same. Never a saving, and not what
rows are compared by.
"""


def write_leaderboard(
    folder: Path, stamp: Stamp, points: pd.DataFrame, ranks: dict[Row, int | None], left_out: int
) -> list[Path]:
    """leaderboard.md and .csv: one row for each point over its seeds, best first, a section for each split."""
    rows = rows_of(points)
    shown = points.assign(
        rank=pd.Series([ranks[row["config_id"], row["point"]] for row in rows], dtype=object),
        kind=[f"{row['kind']} (control)" if row["control"] else row["kind"] for row in rows],
        interval=[interval(row["score_low"], row["score_high"]) for row in rows],
        madds_theoretical=pd.Series([known(row["madds_theoretical"]) for row in rows], dtype=object),
    )
    has_theory = any(value is not None for value in shown["madds_theoretical"])
    parts = ["# Leaderboard", LEADERBOARD_NOTE, *([THEORETICAL_NOTE] if has_theory else [])]
    parts += [METRICS[name].note for name in sorted(set(shown["metric"]))]
    for (split,), group in groups_of(shown, "split"):
        images = f"{rows_of(group)[0]['images']:,} images"
        parts += [
            f"## {', '.join([split, images, *_only_model(group)])}",
            section(group, titled_by(LEADERBOARD, metric_of(group))),
        ]
    if left_out:
        parts.append(f"Not in this table, because not evaluated: {left_out} runs (see failures.md).")
    return [
        write_markdown(folder / "leaderboard.md", stamp, *parts),
        write_csv(folder / "leaderboard.csv", stamp, shown, LEADERBOARD),
    ]


LATENCY = [
    Column("dataset", None),
    *NAMES,
    name_column("form"),
    name_column("device"),
    Column("batch", "batch", integer, integer),
    Column("threads", "threads", integer, integer),
    Column("median_ms", "median ms", fixed(3), fixed(6)),
    Column("iqr_ms", "IQR ms", fixed(3), fixed(6)),
    Column("p90_ms", "p90 ms", fixed(3), fixed(6)),
    Column("p99_ms", "p99 ms", fixed(3), fixed(6)),
    Column("ratio_to_full", "of full", fixed(3), fixed(6)),
    Column("images_per_s", "images/s", count, fixed(3)),
    Column("runs", "runs", integer, integer),
    Column("calls", "calls", integer, integer),
    Column("busy", "busy", yes, yes, right=False),
    Column("config_id", None),
]
LATENCY_NOTE = """
Wall time of one forward of one batch, in ms; each statistic is the median over the runs (seeds). Of full: the time as a
fraction of the full static network's in the same rounds, which is what to compare rows by. Timings depend on the
machine and are not part of the digest above. Busy: other work ran while at least one of the runs was timed.
"""


def write_latency(folder: Path, stamp: Stamp, latency: pd.DataFrame) -> list[Path]:
    """latency.md and .csv; nothing when no run was profiled."""
    if latency.empty:
        return []
    shown = latency.assign(images_per_s=latency["batch"] / latency["median_ms"] * 1e3)
    parts = ["# Latency", LATENCY_NOTE]
    for (dataset,), group in groups_of(shown, "dataset"):
        parts += [f"## {', '.join([dataset, *_only_model(group)])}", section(group, LATENCY)]
    return [
        write_markdown(folder / "latency.md", stamp, *parts),
        write_csv(folder / "latency.csv", stamp, shown, LATENCY),
    ]


CONTROLS = [
    *PLACE,
    *NAMES,
    name_column("control"),
    Column("seeds", "seeds", integer, integer),
    Column("metric", None),
    Column("score_mean", f"{SCORE} %", PERCENT, PERCENT_CSV, "score_percent"),
    Column("control_score", "control %", PERCENT, PERCENT_CSV, "control_score_percent"),
    Column("madds_mean", "MAdds/image", count, number),
    Column("control_madds", "control MAdds", count, number),
    Column("difference", "difference", signed(2, 100), PERCENT_CSV, "difference_percent"),
    Column("interval", "95 % interval", plain=None),
    Column("low", None, plain=PERCENT_CSV, header="difference_percent_low"),
    Column("high", None, plain=PERCENT_CSV, header="difference_percent_high"),
    Column("p_holm", "p (Holm)", fixed(4), fixed(6)),
    name_column("verdict"),
    Column("config_id", None),
]
CONTROLS_NOTE = f"""
Each dynamic point against what the same checkpoint reaches without looking at the image: `random_gate` sends images to
the same choices at random, in the gate's own proportions; `{HULL}` is the best blind mixture of the fixed sub-networks
whose mean MAdds are at most the gate's (with several gates: those with all gates at one place). It is chosen
on the images that it is judged on, which favours it: "worse" than the hull says less than "better". Differences in
percentage points, by the paired bootstrap over seeds and images, on the seeds that both have; p with Holm's correction
over the table of a split.
"""


def write_controls(folder: Path, stamp: Stamp, controls: pd.DataFrame) -> list[Path]:
    """controls.md and .csv; nothing when no control was run on a dynamic point."""
    if controls.empty:
        return []
    shown = controls.assign(interval=[interval(row["low"], row["high"]) for row in rows_of(controls)])
    parts = ["# Dynamic points against their controls", CONTROLS_NOTE]
    for (split,), group in groups_of(shown, "split"):
        parts += [f"## {titled(split, group)}", section(group, titled_by(CONTROLS, metric_of(group)))]
    return [
        write_markdown(folder / "controls.md", stamp, *parts),
        write_csv(folder / "controls.csv", stamp, shown, CONTROLS),
    ]


CURVES = [
    *PLACE,
    *NAMES[:3],
    Column("points", None, plain=integer),
    Column("measure", None),
    Column("madds_low", None, plain=number),
    Column("madds_high", None, plain=number),
    *(Column(name, None, plain=PERCENT_CSV, header=f"{name}_percent") for name in ("mean", "std", "low", "high")),
    Column("n", None, plain=integer, header="seeds"),
    Column("config_id", None),
]
CURVE_NAMES = tuple(column.name for column in NAMES[:3])
CURVES_NOTE = f"""
The points of a method as one curve, in percent with the 95 % t interval over seeds. Accuracy at a budget of MAdds is
read off the curve's front, interpolated in the logarithm of the MAdds; {NONE} where the curve does not get down to it.
The area is the mean accuracy over the logarithm of the MAdds on the range that all curves of several points cover; the
hypervolume is the dominated share of the box up to {REFERENCE} times the costliest point.
"""


def write_curves(folder: Path, stamp: Stamp, curves: pd.DataFrame) -> list[Path]:
    """curves.md (a row for each curve) and curves.csv (long form)."""
    parts = ["# Accuracy-MAdds curves", CURVES_NOTE]
    for (split,), group in groups_of(curves, "split"):
        wide = _wide(group)
        columns = [*NAMES[:3], Column("points", "points", integer)]
        columns += [Column(title, title) for title in wide.columns if title not in (*CURVE_NAMES, "points")]
        parts += [f"## {', '.join([split, *_only_model(wide)])}", section(wide, columns)]
    return [
        write_markdown(folder / "curves.md", stamp, *parts),
        write_csv(folder / "curves.csv", stamp, curves, CURVES),
    ]


def _only_model(group: pd.DataFrame) -> list[str]:
    """The model of a section, where it has just one: it is then named in the heading instead of in every row."""
    models = set(group["model"])
    return list(models) if len(models) == 1 else []


def titled(split: str, group: pd.DataFrame) -> str:
    """The heading of a section."""
    return ", ".join([split, *_only_model(group)])


def section(group: pd.DataFrame, columns: Sequence[Column]) -> str:
    """The Markdown table of a section."""
    shown = [column for column in columns if column.name != "model" or not _only_model(group)]
    return markdown_table(group, used(group, shown))


def _wide(group: pd.DataFrame) -> pd.DataFrame:
    """One row for each curve, one column for each measure."""
    rows: dict[str, dict] = {}
    costliest = max(row["madds_low"] for row in rows_of(group)) / REFERENCE
    for row in rows_of(group):
        line = rows.setdefault(row["config_id"], {name: row[name] for name in (*CURVE_NAMES, "points")})
        spread = "" if pd.isna(row["low"]) else f" {interval(row['low'], row['high'])}"
        line[_measure_title(row, costliest)] = NONE if pd.isna(row["mean"]) else PERCENT(row["mean"]) + spread
    return pd.DataFrame(list(rows.values()))


def _measure_title(row: dict, costliest: float) -> str:
    low, high = count(row["madds_low"]), count(row["madds_high"])
    if row["measure"] == "accuracy":
        return f"{METRICS[row['metric']].title} at {low} ({row['madds_low'] / costliest:.0%})"
    return f"area from {low} to {high}" if row["measure"] == "area" else row["measure"]

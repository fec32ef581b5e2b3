"""What meters other than latency measured in the profile phase: one row for each metric, point, form and batch size."""

from collections.abc import Sequence

import pandas as pd

from bench.reports.frame import natural
from bench.reports.layout import Column, Page, by, fixed, integer, name_column, yes
from bench.reports.runs import Run
from bench.reports.variants import variants

KEYS = ["dataset", "metric", "model", "method", "variant", "point", "form", "device", "batch", "threads", "config_id"]
COLUMNS = [
    Column("dataset", None),
    *map(name_column, ("metric", "method", "model", "variant", "point", "form", "device")),
    Column("batch", "batch", integer, integer),
    Column("threads", "threads", integer, integer),
    Column("value", "median", fixed(3), fixed(6)),
    name_column("unit"),
    Column("of_full", "of full", fixed(3), fixed(6)),
    Column("runs", "runs", integer, integer),
    Column("calls", "calls", integer, integer),
    Column("busy", "busy", yes, yes, right=False),
    Column("config_id", None),
]
NOTE = """
What each meter measured of one forward of one batch: the median of the calls, and of that the median over the runs
(seeds). Of full: as a fraction of what the full static network took in the same rounds, which is what to compare rows
by. These numbers depend on the machine and are not part of the digest above. Busy: other work ran meanwhile.
"""


def meters_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each KEYS, over the runs; empty where latency alone was measured."""
    label, rows = variants(runs), []
    for run in runs:
        for record in run.records("profile"):
            how = record.details
            if how.get("meter", "latency") == "latency":  # which has a table of its own
                continue
            place = (record.dataset, record.metric, record.model, record.method, label[run.config_id], record.point)
            place += (record.form or "", how["device"], how["batch"], how["threads"], run.config_id)
            ratio = how.get("ratio_to_full", {"median": float("nan")})["median"]
            rows.append((*place, record.unit, record.value, ratio, record.n, how["busy"]))
    rows.sort(key=lambda row: [natural(str(part)) for part in row[: len(KEYS)]])
    frame = pd.DataFrame(rows, columns=[*KEYS, "unit", "value", "of_full", "calls", "busy"])
    groups = frame.groupby([*KEYS, "unit"], sort=False)
    return groups.agg(
        value=("value", "median"), of_full=("of_full", "median"), runs=("value", "size"), calls=("calls", "sum"),
        busy=("busy", "any"),
    ).reset_index()  # fmt: skip


def meters_pages(frame: pd.DataFrame) -> list[Page]:
    """The page of other meters; none where latency alone was measured."""
    return [] if frame.empty else [Page("meters", "Meters", [NOTE], by("dataset", frame, COLUMNS), (frame, COLUMNS))]

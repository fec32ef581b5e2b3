"""The table of latencies: the time of a batch in every form, on every device that was timed."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import pandas as pd

from bench.reports.frame import natural
from bench.reports.layout import (
    NAMES,
    Column,
    Page,
    by,
    count,
    fixed,
    integer,
    name_column,
    yes,
)
from bench.reports.runs import Run
from bench.reports.variants import variants

COLUMNS = [
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
NOTE = """
Wall time of one forward of one batch, in ms; each statistic is the median over the runs (seeds). Of full: the time as a
fraction of the full static network's in the same rounds, which is what to compare rows by. Timings depend on the
machine and are not part of the digest above. Busy: other work ran while at least one of the runs was timed.
"""


def latency_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """Latencies over seeds: one row for each config, point, form, device, batch size and number of threads.

    median_ms, iqr_ms, p90_ms, p99_ms (ms a batch) and ratio_to_full (of the time of the full network in the same
    rounds) are each the median over the runs; calls is the number of timed calls of all runs, busy whether other work
    ran on the machine during any of them.
    """
    label = variants(runs)
    groups: dict[tuple, list[tuple[float, dict[str, Any]]]] = {}
    for run in runs:
        for record in run.records("profile"):
            if record.metric != "latency_ms":
                continue
            how = record.details
            key = (record.dataset, record.model, record.method, label[run.config_id], run.config_id, record.point)
            key += (record.form or "", str(how.get("device", run.spec.device)), int(how["batch"]))
            key += (int(how.get("threads", run.spec.threads)),)
            groups.setdefault(key, []).append((record.value, {"calls": record.n} | how))
    names = ["dataset", "model", "method", "variant", "config_id", "point", "form", "device", "batch", "threads"]
    ordered = sorted(groups, key=lambda key: [natural(str(part)) for part in key])
    return pd.DataFrame([dict(zip(names, key, strict=True)) | _timed(groups[key]) for key in ordered])


def _timed(timings: Sequence[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    """The statistics of one row, over the runs that timed it."""
    spread = {
        name: median(values) if (values := [how[name] for _, how in timings if name in how]) else float("nan")
        for name in ("iqr_ms", "p90_ms", "p99_ms")
    }
    ratios = [how["ratio_to_full"]["median"] for _, how in timings if "ratio_to_full" in how]
    return {
        "runs": len(timings),
        "calls": sum(how["calls"] for _, how in timings),
        "median_ms": median(value for value, _ in timings),
        **spread,
        "ratio_to_full": median(ratios) if ratios else float("nan"),
        "busy": any(how.get("busy", False) for _, how in timings),
    }


def latency_pages(frame: pd.DataFrame) -> list[Page]:
    """The page of latencies; none when no run was profiled."""
    if frame.empty:
        return []
    shown = frame.assign(images_per_s=frame["batch"] / frame["median_ms"] * 1e3)
    return [Page("latency", "Latency", [NOTE], by("dataset", shown, COLUMNS), (shown, COLUMNS))]

"""The table of detectors: average precision of each class, by both rules of VOC, with its interval over images."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from bench.core.metrics import metrics_of
from bench.reports.frame import natural
from bench.reports.layout import (
    PERCENT,
    PERCENT_CSV,
    Column,
    Page,
    Section,
    count,
    integer,
    interval,
    name_column,
    number,
)
from bench.reports.rows import groups_of, rows_of
from bench.reports.runs import Run
from bench.reports.variants import variants

NAMES = ("method", "model", "variant", "point")
MAPS = {metric.name: f"{metric.title} %" for metric in metrics_of("detection")}
NOTE = """
One row for each seed. mAP@0.5: mean over the classes of average precision at IoU 0.5, the area under the precision
envelope (VOC 2010); (07): its mean at 11 recalls (VOC 2007); COCO mAP: over IoU 0.50 to 0.95, where its packages were
installed. The interval is the 95 % bootstrap over images. AP of each class by all points. F1: mean over the images, of
detections with a score of at least 0.3. Backbone: MAdds without the detector's head.
"""


def detection_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each point of each evaluated detection run.

    Columns: split, NAMES, seed, the MAPS, low, high (of the interval), ap and objects (by class), madds,
    madds_backbone, config_id.
    """
    label = variants(runs)
    rows = [row for run in runs for row in _rows(run, label[run.config_id])]
    order = lambda row: (row["split"], *(natural(row[name]) for name in NAMES), row["seed"])
    return pd.DataFrame(sorted(rows, key=order))


def _rows(run: Run, variant: str) -> Iterator[dict[str, Any]]:
    for point, found in ((each.name, each.records) for each in run.points.values()):
        if "map50_voc" not in found:
            continue
        main = found["map50_voc"]
        names = {"method": run.spec.method, "model": run.spec.model, "variant": variant, "point": point}
        values = {metric: found[metric].value if metric in found else None for metric in (*MAPS, "madds")}
        low, high = main.details["interval"]
        backbone = found["madds_backbone"].value if "madds_backbone" in found else None
        yield {
            "split": main.split,
            **names,
            "seed": run.spec.seed,
            **values,
            "low": low,
            "high": high,
            "ap": main.details["classes"],
            "objects": main.details["objects"],
            "madds_backbone": backbone,
            "config_id": run.config_id,
        }


def detection_pages(found: pd.DataFrame) -> list[Page]:
    """The page of detectors, in CSV a row for each class; none where no detector was evaluated."""
    if found.empty:
        return []
    sections = []
    for (split,), group in groups_of(found, "split"):
        classes = list(next(iter(group["ap"])))
        shown = group.assign(
            interval=[interval(low, high) for low, high in zip(group["low"], group["high"], strict=True)],
            **{f"ap/{name}": [ap[name] for ap in group["ap"]] for name in classes},
        )
        objects = next(iter(group["objects"]))
        text = f"Objects: {', '.join(f'{objects[name]:,} {name}' for name in classes)}."
        sections.append(Section(str(split), shown, _columns(classes), text))
    return [Page("detection", "Detectors", [NOTE], sections, (_long(found), LONG))]


def _columns(classes: Sequence[str]) -> list[Column]:
    return [
        *map(name_column, NAMES),
        Column("seed", "seed", integer),
        Column("map50_voc", MAPS["map50_voc"], PERCENT),
        Column("interval", "95 % interval"),
        *(Column(f"ap/{name}", name, PERCENT) for name in classes),
        *(Column(metric, MAPS[metric], PERCENT) for metric in ("map50_voc07", "map_coco", "f1_image")),
        Column("madds", "MAdds/image", count),
        Column("madds_backbone", "backbone", count),
    ]


LONG = [
    Column("split", None),
    *map(name_column, NAMES),
    Column("seed", None, plain=integer),
    Column("class", None),
    Column("objects", None, plain=integer),
    Column("value", None, plain=PERCENT_CSV, header="ap50_voc_percent"),
    *(Column(metric, None, plain=PERCENT_CSV, header=f"{metric}_percent") for metric in MAPS),
    Column("low", None, plain=PERCENT_CSV, header="map50_voc_percent_low"),
    Column("high", None, plain=PERCENT_CSV, header="map50_voc_percent_high"),
    Column("madds", None, plain=number),
    Column("madds_backbone", None, plain=number),
    Column("config_id", None),
]


def _long(found: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        [
            row | {"class": name, "value": ap, "objects": row["objects"][name]}
            for row in rows_of(found)
            for name, ap in row["ap"].items()
        ]
    )

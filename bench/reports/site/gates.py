"""What a page shows of gates: each beside its controls, with the images that it finds easiest and hardest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.reports.differences import read_scores
from bench.reports.facts import TestImages
from bench.reports.rows import as_json, rows_of, select
from bench.reports.runs import Run

EASY = HARD = 8


def gates_of(
    split: str,
    rows: Sequence[Mapping[str, Any]],
    by_config: Mapping[str, Sequence[Run]],
    controls: pd.DataFrame,
    gates: pd.DataFrame,
    images: TestImages | str,
) -> dict[str, Any]:
    """Each dynamic point beside what it is held against, and the images that its gate finds easiest and hardest."""
    if controls.empty:
        return {"points": [], "images": ""}
    comparisons = select(controls, split=split)
    lines = []
    for number, row in enumerate(rows):
        named = {"config_id": row["config_id"], "point": row["point"]}
        if not len(comparisons) or not (against := rows_of(select(comparisons, **named))):
            continue
        runs = [run for run in by_config[row["config_id"]] if row["point"] in run.points]
        names = ("control", "role", "other_score", "other_madds", "difference", "low", "high", "p_holm", "verdict")
        line = {
            "row": number,
            "against": [{name: as_json(each[name]) for name in (*names, "members")} for each in against],
        }
        doing = rows_of(select(gates, split=split, config_id=row["config_id"], point=row["point"]))[0]
        line |= {name: as_json(doing[name]) for name in ("oracle_score", "oracle_madds", "separation", "entropy")}
        line["pictures"] = _pictures(runs, row["point"], images) if isinstance(images, TestImages) else None
        lines.append(line)
    return {"points": lines, "images": images if isinstance(images, str) else ""}


def _pictures(runs: Sequence[Run], point: str, images: TestImages) -> dict[str, list[dict[str, str]]]:
    """Those of the images on which all seeds spend least, and most; none where all cost the same."""
    spent = np.mean([read_scores(run)[point].madds for run in runs], axis=0)
    order = np.argsort(spent, kind="stable")

    def shown(places: np.ndarray) -> list[dict[str, str]]:
        return [
            {
                "picture": images.picture(int(place)),
                "class": _class_of(images, int(place)),
                "madds": f"{spent[place]:,.0f}",
            }
            for place in places
        ]

    if spent.min() == spent.max():
        return {"easy": [], "hard": []}
    return {"easy": shown(order[:EASY]), "hard": shown(order[::-1][:HARD])}


def _class_of(images: TestImages, place: int) -> str:
    return str(images.classes[images.targets[place]]) if len(images.targets) else ""

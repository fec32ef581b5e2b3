"""The generated tables of what was studied: ablations, and what gates do with images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from bench.reports.ablations import Section
from bench.reports.layout import (
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
)
from bench.reports.rows import groups_of, rows_of
from bench.reports.tables import NAMES, PERCENT, PERCENT_CSV, PLACE, section, titled

DIFFERENCE = [
    Column("difference", "difference", signed(2, 100), PERCENT_CSV, "difference_percent"),
    Column("interval", "95 % interval", plain=None),
    Column("low", None, plain=PERCENT_CSV, header="difference_percent_low"),
    Column("high", None, plain=PERCENT_CSV, header="difference_percent_high"),
    Column("p_holm", "p (Holm)", fixed(4), fixed(6)),
    name_column("verdict"),
]
ABLATION = [
    *PLACE,
    Column("model", None),
    Column("method", None),
    name_column("arm", "variant"),
    name_column("changed"),
    name_column("point"),
    name_column("against"),
    Column("seeds", "seeds", integer, integer),
    Column("metric", None),
    Column("score_mean", f"{SCORE} %", PERCENT, PERCENT_CSV, "score_percent"),
    Column("full_score", "full %", PERCENT, PERCENT_CSV, "full_score_percent"),
    *DIFFERENCE,
    Column("madds_mean", "MAdds/image", count, number),
    Column("full_madds", None, plain=number),
    Column("madds_change", "MAdds change %", signed(1, 100), PERCENT_CSV, "madds_change_percent"),
    Column("config_id", None),
    Column("against_config", None),
]
ABLATION_NOTE = """
Each variant against the full method of the same recipe, point by point: the difference in percentage points,
by the paired bootstrap over seeds and images on the seeds that both have, with its 95 % interval; p with Holm's
correction over the table. "No difference shown" is not "no difference". Dynamic points are what the gates reach; the
others are fixed sub-networks of the same supernet. Changed: the settings in which the variant's runs differ.
"""


def write_ablations(folder: Path, stamp: Stamp, found: Mapping[str, Sequence[Section]]) -> list[Path]:
    """ablation_<name>.md and .csv for each recipe that has something to compare."""
    written = []
    for recipe, parts in sorted(found.items()):
        if not parts:
            continue
        name = "ablation_" + recipe.removeprefix("ablation_")
        texts = [f"# Ablation: {recipe.removeprefix('ablation_').replace('_', ' ')}", ABLATION_NOTE]
        for part in parts:
            shown = _with_interval(part.rows)
            columns = titled_by([c for c in ABLATION if c.name != "against" or _is_crossed(shown)], metric_of(shown))
            texts += [f"## {part.title}", f"Full method: {part.full}.", markdown_table(shown, used(shown, columns))]
        whole = pd.concat([part.rows for part in parts], ignore_index=True)
        written += [
            write_markdown(folder / f"{name}.md", stamp, *texts),
            write_csv(folder / f"{name}.csv", stamp, whole, [c for c in ABLATION if c.name != "interval"]),
        ]
    return written


def _is_crossed(rows: pd.DataFrame) -> bool:
    """Whether some point is held against one of another name."""
    return bool((rows["point"] != rows["against"]).any())


def _with_interval(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(interval=[interval(row["low"], row["high"]) for row in rows_of(rows)])


def _share(value: Mapping[str, float]) -> str:
    return ", ".join(f"{route}: {share:.0%}" for route, share in value.items())


def _against(short: str, title: str) -> list[Column]:
    return [
        Column(f"{short}_difference", f"over {title}", signed(2, 100), PERCENT_CSV, f"{short}_difference_percent"),
        Column(f"{short}_interval", "95 % interval", plain=None),
        Column(f"{short}_low", None, plain=PERCENT_CSV, header=f"{short}_difference_percent_low"),
        Column(f"{short}_high", None, plain=PERCENT_CSV, header=f"{short}_difference_percent_high"),
        name_column(f"{short}_verdict", "verdict"),
    ]


DOING = [
    Column("routing", "routing", _share, _share, right=False),
    Column("entropy", "entropy (bits)", fixed(2), fixed(4)),
    Column("wide_if_wrong", "sent on if wrong %", fixed(1, 100), PERCENT_CSV, "sent_on_if_wrong_percent"),
    Column("wide_if_right", "if right %", fixed(1, 100), PERCENT_CSV, "sent_on_if_right_percent"),
    Column("separation", "separation", fixed(3), fixed(6)),
    Column("separation_interval", "95 % interval", plain=None),
    Column("separation_low", None, plain=fixed(6)),
    Column("separation_high", None, plain=fixed(6)),
]
WORTH = [
    Column("metric", None),
    Column("score_mean", f"{SCORE} %", PERCENT, PERCENT_CSV, "score_percent"),
    Column("madds_mean", "MAdds/image", count, number),
    Column("oracle_score", "oracle % (derived)", PERCENT, PERCENT_CSV, "oracle_score_percent_derived"),
    Column("oracle_madds", "oracle MAdds (derived)", count, number, "oracle_madds_derived"),
    Column("regret", "regret", PERCENT, PERCENT_CSV, "regret_percent"),
    Column("excess", "MAdds over oracle %", signed(1, 100), PERCENT_CSV, "madds_over_oracle_percent"),
    *_against("random", "random"),
    *_against("hull", "hull"),
]
SEEDS = Column("seeds", "seeds", integer, integer)
GATES = [*PLACE, *NAMES, SEEDS, *DOING, *WORTH, Column("config_id", None)]
GATES_NOTE = """
What the gates of each dynamic point do with the images, means over seeds. Entropy: of the share of images on each
route. Sent on: how many images go past the narrowest network, of those that it gets wrong and of those that it gets
right when it runs alone. Separation: the probability that an image which it gets wrong is given more MAdds than one
that it gets right, ties counted half; 0.5 is routing that knows nothing of difficulty (t interval over seeds).
"""
WORTH_NOTE = """
What the routing is worth. The oracle is derived from the scores of the fixed choices, never run, and pays for no gate:
the cheapest choice of the routing space that solves an image, else the cheapest. Regret: its score less the gate's, in
percentage points. The advantages over random routing in the same proportions and over the hull of the fixed choices at
equal MAdds, with their intervals, are those of the table of controls. n/a: that control was not run, or several gates,
whose fixed choices are a few of the routes that an oracle could take.
"""


def write_gates(folder: Path, stamp: Stamp, gates: pd.DataFrame) -> list[Path]:
    """gates.md (what gates do, and what it is worth) and gates.csv; nothing without controls."""
    if gates.empty:
        return []
    shown = gates.copy()
    for short in ("random", "hull", "separation"):
        scale = 1.0 if short == "separation" else 100.0
        pairs = zip(shown[f"{short}_low"], shown[f"{short}_high"], strict=True)
        shown[f"{short}_interval"] = [interval(low, high, scale=scale) for low, high in pairs]
    parts = ["# Gates", GATES_NOTE, WORTH_NOTE]
    for (split,), group in groups_of(shown, "split"):
        parts += [f"## {titled(split, group)}", section(group, [*NAMES, SEEDS, *DOING])]
        parts += [section(group, [*NAMES, *titled_by(WORTH, metric_of(group))])]
    return [write_markdown(folder / "gates.md", stamp, *parts), write_csv(folder / "gates.csv", stamp, gates, GATES)]

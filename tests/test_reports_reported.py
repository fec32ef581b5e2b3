"""The quoted numbers: every row checked, every kind of contradiction found."""

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from report_store import write_eval

from bench.core.errors import UserError
from bench.core.spec import DataSpec, RunSpec, TrainSpec
from bench.core.store import Store
from bench.models import PRESETS
from bench.recipes.official import THRESHOLDS
from bench.reports.authors import authors_pages
from bench.reports.layout import Chosen, Stamp
from bench.reports.reported import load_reported, printed_count, problems, reported_pages
from bench.reports.runs import read_runs
from bench.reports.variants import variants

FOLDER = Path(__file__).parent.parent / "results" / "reported"

GOOD = {
    "key": "us_net/mobilenet_v1/width 0.5",
    "method": "us_net",
    "model": "mobilenet_v1",
    "dataset": "imagenet",
    "point": "width 0.5",
    "madds": 149000000,
    "madds_printed": "149M",
    "top1_error": 35.8,
    "top1": 64.2,
    "source": "a page",
    "table": "its table",
    "convention": "multiply-adds",
}


def load(tmp_path: Path, *rows: object) -> list:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return load_reported(tmp_path)


def test_all_rows_in_the_repository_hold():
    rows = load_reported(FOLDER)
    assert not [(row.key, found) for row in rows if (found := problems(row))]
    assert {row.method for row in rows} >= {
        "ds_net",
        "s_net",
        "us_net",
        "autoslim",
        "uniform",
        "metapruning",
        "eagleeye",
        "thinking_vit",
        "scala",
        "slimmable_convnext",
        "hydravit",
    }
    assert len(rows) == len({row.key for row in rows}) > 100


def test_the_rows_of_the_ds_net_readme():
    rows = [row for row in load_reported(FOLDER) if row.method == "ds_net"]
    assert [row.madds_exact for row in rows][::13] == [132_890_144, 565_445_696]
    assert [row.madds_printed for row in rows[:3]] == ["133M", "153M", "175M"]
    assert (rows[0].top1, rows[0].top5, rows[-1].top1, rows[-1].top5) == (70.1, 89.4, 74.6, 92.0)
    assert len(rows) == 14


def test_anchors_of_the_other_files():
    rows = {row.key: row for row in load_reported(FOLDER)}
    assert rows["us_net/mobilenet_v1/width 0.5"].top1 == 64.2  # 70.1 - 64.2 = the 5.9 of DS-Net's abstract
    assert rows["autoslim/mobilenet_v2/305M"].top1 == 74.2
    assert rows["eagleeye/resnet50/2G"].top1 == 76.4
    assert rows["s_net/resnet50/width 0.25"].madds == 278_000_000
    assert rows["scala/deit_s/width 0.5/X=4"].top1 == 72.0
    assert rows["uniform/deit_b/width 1.0/scala"].top1 == 81.8


def test_the_rows_of_thinking_vit():
    """Their count is 1.25 G + 4.6 G for an image that takes both rounds; the shares that stop are in the notes."""
    rows = [row for row in load_reported(FOLDER) if row.method == "thinking_vit" and row.model == "deit_s"]
    table = [row for row in rows if row.table.endswith("Summary")]
    assert [(row.top1, row.madds) for row in table][:: len(table) - 1] == [(81.44, 5.85e9), (73.536, 1.25e9)]
    for row in table:
        stopped = float(row.note.split("; ")[1].split(" %")[0]) / 100
        assert row.madds == pytest.approx(1.25e9 + (1 - stopped) * 4.6e9, abs=1e6)
    assert [row.top1 for row in rows if "800" in row.table] == [81.85, 81.758, 80.636, 78.846, 74.514]


def test_the_rows_of_the_abstract_of_slimmable_convnext():
    """Its own arithmetic: 2.4 points above HydraViT's 6 heads at 4.5 G, 4.4 above its 3 heads at 1.2 G."""
    rows = {row.key: row for row in load_reported(FOLDER) if "2605.22677" in row.source}
    top1 = {key: Decimal(str(row.top1)) for key, row in rows.items()}
    assert len(rows) == 7
    assert top1["slimmable_convnext/convnext_t/4.5G"] - top1["hydravit/deit_b/6 heads"] == Decimal("2.4")
    assert top1["slimmable_convnext/convnext_t/1.2G"] - top1["hydravit/deit_b/3 heads"] == Decimal("4.4")
    space = PRESETS.get("nested_vit_b").config.space()
    with torch.device("meta"):
        net = PRESETS.get("nested_vit_b").build()
    for heads in (3, 6):
        assert rows[f"hydravit/deit_b/{heads} heads"].madds_exact == net.cost(space.uniform(heads - 3), 224).madds


def test_counts_that_no_source_prints_are_ours_and_follow_the_formula():
    """METHODS 3.4 for a width r of DeiT-S or DeiT-B; r = 0.5 of one is half the heads of a known network."""
    printed_nowhere = [row for row in load_reported(FOLDER) if row.madds is None]
    rows = [row for row in printed_nowhere if row.madds_exact is not None]
    assert all("no count is printed" in row.convention for row in printed_nowhere if row not in rows)
    assert {row.method for row in rows} == {"scala", "uniform"}
    assert all("computed, not run" in row.convention for row in rows)
    exact = {(row.model, row.key.split("/")[2]): row.madds_exact for row in rows}
    assert exact["deit_s", "width 0.5"] == 1_253_683_200  # DeiT-Ti
    assert exact["deit_b", "width 0.5"] == exact["deit_s", "width 1.0"] == 4_598_882_304
    assert exact["deit_b", "width 1.0"] == 17_563_828_224


def test_a_good_row_loads(tmp_path: Path):
    (row,) = load(tmp_path, GOOD)
    assert (row.madds, row.top5, row.note) == (149_000_000, None, "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top1": 64.3}, "top1 64.3 is not 100 - 35.8"),
        ({"madds": 150000000}, "madds is 150000000, but 149M was printed"),
        ({"madds_printed": "149 MFLOPs"}, "not digits and M or G"),
        ({"madds_exact": 149500001}, "madds_exact 149500001 does not round to 149M"),
        ({"madds": None}, "madds and madds_printed belong together"),
        ({"top5": 60.0}, "top1 64.2 and top5 60.0 are impossible"),
        ({"source": ""}, "source is empty"),
        ({"madds": "149"}, "madds cannot be '149'"),
        ({"top1": True}, "top1 cannot be True"),
        ({"madds_printd": "149M"}, "unknown key 'madds_printd'; did you mean 'madds_printed'"),
    ],
)
def test_a_row_that_contradicts_itself_is_named(tmp_path: Path, change: dict, message: str):
    with pytest.raises(UserError) as error:
        load(tmp_path, GOOD | change)
    assert "rows.jsonl, line 1: " in str(error.value)
    assert message in str(error.value)


def test_a_row_may_have_no_count(tmp_path: Path):
    (row,) = load(tmp_path, GOOD | {"madds": None, "madds_printed": None, "madds_exact": 12})
    assert (row.madds, row.madds_exact) == (None, 12)
    path = reported_pages([row])[0].write(tmp_path, Stamp("c", "d"), Chosen())[0]
    assert "MAdds (reported)" not in path.read_text()


def test_lines_that_are_no_rows(tmp_path: Path):
    with pytest.raises(UserError, match=r"line 2: the key .* is there twice"):
        load(tmp_path, GOOD, GOOD)
    with pytest.raises(UserError, match="line 1: not JSON"):
        load(tmp_path, "{")
    with pytest.raises(UserError, match="line 1: a reported row is a JSON object"):
        load(tmp_path, [1])
    with pytest.raises(UserError, match="line 1: it lacks top1, table"):
        load(tmp_path, {key: value for key, value in GOOD.items() if key not in ("top1", "table")})


def test_printed_counts():
    assert [printed_count(text) for text in ("569M", "4.1G", "2.80G", "0.53G")] == [
        569_000_000,
        4_100_000_000,
        2_800_000_000,
        530_000_000,
    ]
    with pytest.raises(ValueError, match="not a count"):
        printed_count("569")


def test_the_table_says_that_its_numbers_are_quoted(tmp_path: Path):
    path = reported_pages(load(tmp_path, GOOD))[0].write(tmp_path, Stamp("c", "d"), Chosen())[0]
    header = next(line for line in path.read_text().splitlines() if line.startswith("| method"))
    assert "top-1 % (reported)" in header
    assert "MAdds (reported)" in header
    assert "our count" not in header  # no row has one
    assert reported_pages([]) == []


def test_the_reported_row_stands_beside_what_was_evaluated_here(tmp_path: Path):
    """400 test images: 64.25 % is as the reported 64.2 %, 60 % is not; on a part of the classes nothing is said."""
    store = Store(tmp_path)
    for solved, protocol in ((257, "official"), (240, "official"), (257, "subset")):
        data = DataSpec("imagenet", protocol)
        spec = RunSpec("pretrained", "us_mobilenet_v1", data, TrainSpec(epochs=0), options={"steps": [solved]})
        point = {
            "score": (np.arange(400) < solved).astype(np.float32), "madds": np.full(400, 14_900_000),
            "route": np.empty((400, 0), np.int64), "kind": "static",
            "tier": "authors' weights, evaluated here", "reported": GOOD["key"],
        }  # fmt: skip
        write_eval(store, spec, {"uniform10": point})
    runs, quoted = read_runs(tmp_path), load_reported(FOLDER)
    path = authors_pages(runs, quoted)[0].write(tmp_path, Stamp("c", "d"), Chosen())[0]
    rows = [[cell.strip() for cell in line.split("|")[2:-2]] for line in path.read_text().splitlines()[-3:]]
    assert sorted(rows) == [
        ["uniform10", "400", "60.00", "64.2", "-4.20", "differs"],
        ["uniform10", "400", "64.25", "64.2", "+0.05", "as reported"],
        ["uniform10", "400", "64.25", "64.2", "n/a", "other images"],
    ]
    assert {run.mark for run in runs} == {"authors' weights, evaluated here"}
    assert all(label.startswith("authors' weights, evaluated here") for label in variants(runs).values())
    assert authors_pages(runs, []) == []


def test_every_format_names_rows_that_are_reported():
    keys = {row.key for row in load_reported(FOLDER)}
    formats = [one for preset in map(PRESETS.get, PRESETS.names()) for one in preset.family.official]
    for one in formats:
        for name in one.presets:
            assert len(one.reported) in (0, len(PRESETS.get(name).config.space().uniform_choices))
        assert one.name == "hydravit" or set(one.reported) <= keys
    assert {f"thinking_vit/deit_s/entropy {threshold}" for threshold in THRESHOLDS} <= keys

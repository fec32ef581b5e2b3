"""What the tables say, worked out a second time, and that equal records give equal bytes."""

import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from report_store import (
    DYNAMIC,
    IMAGES,
    SPLIT,
    WIDTHS,
    make_store,
    points_of,
    record_of,
    spec_of,
    write_eval,
    write_profile,
)

from bench.core.errors import UserError
from bench.core.record import Record
from bench.core.store import Store
from bench.reports import figures, generate, plain_strings
from bench.reports.controls import HULL, controls_frame
from bench.reports.curves import curves_frame
from bench.reports.differences import Row, Scored, only_scores, p_text, scores_by_row, verdicts
from bench.reports.frame import natural, observations, points_frame
from bench.reports.latency import latency_frame
from bench.reports.layout import (
    NONE,
    Chosen,
    Column,
    Page,
    Section,
    Stamp,
    count,
    fixed,
    for_csv,
    interval,
    markdown,
    name_column,
    number,
    signed,
)
from bench.reports.leaderboard import _interval, _root, leaderboard_frame
from bench.reports.runs import read_runs, records_digest
from bench.statistics.crossed import P_FLOOR, compare, row_interval
from bench.statistics.intervals import holm

COMMAND = "slicebench report --results results"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store")).root


@pytest.fixture(scope="module")
def report(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    generate(store, out, COMMAND)
    return out


@pytest.fixture
def tables_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a report's time; these tests do not look at figures."""
    for name in ("write_accuracy_madds", "write_accuracy_latency", "write_routing"):
        monkeypatch.setattr(figures, name, lambda *_: [])


# Run in a process of its own, in which torch and ray cannot be imported.
REPORT = """
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("torch", "ray"):
            raise ImportError(f"reports must not import {name}")

sys.meta_path.insert(0, Refuse())
from bench.reports import generate
generate(*sys.argv[1:])
"""


def csv(report: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(report / "tables" / f"{name}.csv", skiprows=1, keep_default_na=False, na_values=[""])


def accuracies(method: str, point: str) -> list[float]:
    return [100 * float(points_of(method, seed)[point]["score"].mean()) for seed in range(3)]


def test_the_leaderboard_by_another_way(report: Path):
    table = csv(report, "leaderboard").set_index(["method", "point"])
    assert len(table) == 3 * 4 + 2
    for (method, point), row in table.iterrows():  # type: ignore[misc]
        values = accuracies(method, point)
        interval = row_interval({seed: points_of(method, seed)[point]["score"] for seed in range(3)})
        assert row["score_percent"] == pytest.approx(statistics.mean(values), abs=1e-4)
        assert row["score_percent_std"] == pytest.approx(statistics.stdev(values), abs=1e-4)
        assert row["score_percent_low"] == pytest.approx(100 * interval.low, abs=1e-4)
        assert row["score_percent_high"] == pytest.approx(100 * interval.high, abs=1e-4)
        assert row["madds_mean"] == pytest.approx(points_of(method, 0)[point]["madds"].mean())
        assert row["madds_relative"] == pytest.approx(row["madds_mean"] / 430_000, abs=1e-6)
        assert (row["seeds"], row["images"], row["params_stored"]) == (3, IMAGES, 7_676_204)


def test_theoretical_costs_stand_beside_the_executed_ones(store, tmp_path, tables_only):
    """Only where a point has them, and no other number is moved."""
    told = Store(shutil.copytree(store, tmp_path / "told"))
    for seed in range(3):
        run_id = spec_of("us_net", seed).run_id
        body = told.read(run_id, "eval")
        body["records"].append(record_of(spec_of("us_net", seed), "uniform0", "madds_theoretical", 1234.0, IMAGES))
        told.write(run_id, "eval", {key: body[key] for key in ("records", "results", "environment")})
    generate(store, tmp_path / "before", COMMAND)
    generate(told.root, tmp_path / "after", COMMAND)
    before, after = (csv(tmp_path / name, "leaderboard") for name in ("before", "after"))
    assert before["madds_theoretical"].isna().all()
    is_told = (after["method"] == "us_net") & (after["point"] == "uniform0")
    assert after["madds_theoretical"].notna().tolist() == is_told.tolist()
    assert set(after.loc[is_told, "madds_theoretical"]) == {1234.0}
    pd.testing.assert_frame_equal(before.drop(columns="madds_theoretical"), after.drop(columns="madds_theoretical"))
    texts = [(tmp_path / name / "tables" / "leaderboard.md").read_text() for name in ("before", "after")]
    assert ["theoretical MAdds" in text for text in texts] == [False, True]
    assert "| 1,234 |" in " ".join(texts[1].split())


def test_the_front_holds_what_nothing_beats(report: Path):
    table = csv(report, "leaderboard")
    pairs = list(zip(table["madds_mean"], table["score_percent"], strict=True))
    for (cost, score), on_front in zip(pairs, table["on_front"], strict=True):
        beaten = any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in pairs)
        assert (on_front == "yes") is not beaten


def obvious_places(scores: dict[Row, dict[int, Scored]]) -> list[str]:
    """The rank ranges of these rows, pair by pair."""
    pairs = {(a, b): compare(only_scores(scores[a]), only_scores(scores[b])) for a, b in combinations(scores, 2)}
    adjusted = holm([pair.p_value for pair in pairs.values() if pair])
    better = [
        both if pair and pair.difference > 0 else both[::-1]
        for (both, pair), p in zip(pairs.items(), adjusted, strict=True)
        if p <= 0.05
    ]
    low = [1 + sum(loser == row for _, loser in better) for row in scores]
    high = [len(scores) - sum(winner == row for winner, _ in better) for row in scores]
    return [str(a) if a == b else f"{a} to {b}" for a, b in zip(low, high, strict=True)]


def test_ranks_by_another_way(store: Path):
    """Two of the rows solve nothing, so that there is something to be sure of."""
    runs = read_runs(store)
    points, scores = points_frame(runs), scores_by_row(runs)
    by_method = {run.spec.method: run.config_id for run in runs}
    bad = [(SPLIT, by_method["us_net"], "uniform0"), (SPLIT, by_method["uniform"], "uniform2")]
    scores |= {row: {seed: one._replace(score=one.score * 0) for seed, one in scores[row].items()} for row in bad}
    frame = leaderboard_frame(points, runs, scores)
    rows = [(row["split"], row["config_id"], row["point"]) for row in frame.to_dict("records")]
    assert list(frame["rank"]) == obvious_places({row: scores[row] for row in rows})
    assert set(frame["rank"]) == {"1 to 12", "13 to 14"}
    assert [frame["tied"][rows.index(row)] for row in (bad[0], rows[0])] == [1, 11]
    assert [frame["unbeaten"][rows.index(row)] for row in (*bad, rows[0])] == ["no", "no", "yes"]
    cheap = [row for row in rows if row[2] == "uniform0"]
    assert [frame["rank_in_budget"][rows.index(row)] for row in cheap] == obvious_places({r: scores[r] for r in cheap})
    assert frame["rank_in_budget"][rows.index(bad[0])] == "3"
    assert {frame["budget"][rows.index(row)] for row in cheap} == {0.25 * 430_000}
    assert frame["rank_in_budget"][rows.index(bad[1])] == "10 to 11", "within 75 % of the largest MAdds"
    assert frame["rank_pooled"].isna().all(), "three trainings are too few to pool"


def test_ranks_in_the_table(report: Path):
    table = csv(report, "leaderboard").set_index(["method", "point"])
    assert set(table["rank"]) == {"1 to 14"}, "300 images and three seeds tell nothing apart"
    assert set(table["tied_with"]) == {13}
    assert set(table["not_worse_at_its_madds"]) == {"yes"}
    assert (table["smallest_difference_percent"] > 0).all()
    assert table["budget_madds"]["us_net", "uniform0"] == round(0.25 * 430_000)
    assert math.isnan(table["budget_madds"]["us_net", "uniform3"])


def test_the_interval_of_a_mean_average_precision_takes_the_images_part_from_the_measure():
    """It is no mean over images: the t interval over the seeds and the measure's own, in quadrature, within 0 and 1."""
    row = {"metric": "map50_voc", "seeds": 3, "score_mean": 0.5, "score_std": 0.02, "half_over_images": 0.03}
    half = math.hypot(4.302653 * 0.02 / math.sqrt(3), 0.03)
    assert _interval(row, {}) == {"score_low": pytest.approx(0.5 - half), "score_high": pytest.approx(0.5 + half)}
    one = _interval(row | {"seeds": 1, "score_std": math.nan, "score_mean": 0.99}, {})
    assert one == {"score_low": pytest.approx(0.96), "score_high": 1.0}


def test_points_of_one_checkpoint_share_a_cluster(store: Path):
    """A control, and a control of it, count with the training that they began with; a stranger does not."""
    runs = read_runs(store)
    parents = {run.config_id: run.parent_config for run in runs}
    by_method = {run.spec.method: run.config_id for run in runs}
    parents["grandchild"] = by_method["random_gate"]
    assert _root("grandchild", parents) == _root(by_method["fixed_choice"], parents) == by_method["ds_net"]
    assert _root(by_method["uniform"], parents) == by_method["uniform"]


def test_ranks_that_would_not_fit_are_refused_before_any_image_is_read(store: Path, tmp_path: Path, monkeypatch):
    free = psutil.virtual_memory()._replace(available=10_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr("bench.reports.report.scores_by_row", lambda runs: pytest.fail("it has begun"))
    with pytest.raises(UserError, match=r"14 rows of digits.*memory.*slicebench report --no-ranks"):
        generate(store, tmp_path, COMMAND)


def test_a_report_without_ranks(store: Path, report: Path, tmp_path: Path, tables_only, monkeypatch):
    monkeypatch.setattr("bench.reports.leaderboard.compare_all", lambda *_: pytest.fail("rows are compared"))
    generate(store, tmp_path, COMMAND, ranks=False)
    table, ranked = csv(tmp_path, "leaderboard"), csv(report, "leaderboard")
    told = ["rank", "tied_with", "budget_madds", "rank_in_budget", "smallest_difference_percent"]
    told += ["not_worse_at_its_madds"]
    assert table[told].isna().all(axis=None)
    pd.testing.assert_frame_equal(
        table.drop(columns=[*told, "rank_pooled"]), ranked.drop(columns=[*told, "rank_pooled"])
    )
    text = (tmp_path / "tables" / "leaderboard.md").read_text()
    assert "rank" not in text
    assert csv(tmp_path, "controls").equals(csv(report, "controls"))


@pytest.mark.usefixtures("tables_only")
def test_fewer_than_three_seeds_get_no_rank(tmp_path: Path):
    make_store(tmp_path / "two", seeds=2, profile=False)
    generate(tmp_path / "two", tmp_path, COMMAND)
    assert csv(tmp_path, "leaderboard")["rank"].isna().all()
    assert set(csv(tmp_path, "controls")["verdict"]) == {"fewer than 3 seeds"}
    make_store(tmp_path / "one", seeds=1, profile=False)
    generate(tmp_path / "one", tmp_path, COMMAND)
    table = csv(tmp_path, "leaderboard")
    assert table["score_percent_std"].isna().all()
    assert table["score_percent"].notna().all()
    assert csv(tmp_path, "controls")["difference_percent"].notna().all()


def test_markdown_is_for_reading(report: Path):
    text = (report / "tables" / "leaderboard.md").read_text()
    assert f"## {SPLIT}, 300 images, 3 seeds, ds_mobilenet_v1_micro" in text
    assert " 430,000 |" in text
    assert "variant" not in text  # every method was run in one way
    assert "| random gate to 67 % of MAdds *" in text
    assert "| gate to 67 % of MAdds " in text
    assert max(map(len, text.splitlines())) < 180
    rows = [line for line in text.splitlines() if line.startswith("| 1 to")]
    madds = [int(re.findall(r"([\d,]+) \|", row)[-2].replace(",", "")) for row in rows]
    assert madds == sorted(madds), "cheapest first"
    mean = statistics.mean(accuracies("uniform", "uniform3"))
    assert f"{mean:.2f}" in text


def test_every_table_names_its_command_and_digest(store: Path, report: Path):
    measured = records_digest(read_runs(store))
    for file in (report / "tables").iterdir():
        first = file.read_text().splitlines()[0]
        assert f"generated by: {COMMAND}; records sha256: " in first
        assert (measured in first) is (file.stem != "reported")
        assert b"\r" not in file.read_bytes()


def test_a_dynamic_point_against_its_controls(report: Path):
    table = csv(report, "controls").set_index("control")
    assert list(table.index) == ["random_gate", HULL]
    gate, random = accuracies("ds_net", DYNAMIC), accuracies("random_gate", DYNAMIC)
    row = table.loc["random_gate"]
    assert row["difference_percent"] == pytest.approx(statistics.mean(gate) - statistics.mean(random), abs=1e-4)
    assert row["control_madds"] == row["madds_mean"]
    # By hand: 286,264 MAdds lie between uniform1 (180,000) and uniform2 (290,000), both on the hull of all seeds.
    share = (286_264 - 180_000) / 110_000
    fixed_choice = [accuracies("fixed_choice", name) for name in ("uniform1", "uniform2")]
    mixed = [(1 - share) * one + share * two for one, two in zip(*fixed_choice, strict=True)]
    assert table.loc[HULL]["control_score_percent"] == pytest.approx(statistics.mean(mixed), abs=0.4)
    assert table.loc[HULL]["control_score_percent"] >= round(statistics.mean(mixed), 4)  # a hull is never below
    assert table.loc[HULL]["control_madds"] == pytest.approx(286_264)


def test_verdicts_follow_from_the_closed_form(store: Path):
    runs = read_runs(store)
    controls = controls_frame(points_frame(runs), runs, scores_by_row(runs))
    rows = {
        method: {seed: points_of(method, seed)[DYNAMIC]["score"] for seed in range(3)}
        for method in ("ds_net", "random_gate")
    }
    alone = compare(rows["ds_net"], rows["random_gate"])
    found = controls.set_index("control").loc["random_gate"]
    assert alone is not None
    assert (found["p_value"], found["low"], found["high"]) == (alone.p_value, alone.low, alone.high)
    for _, row in controls.iterrows():
        assert row["p_holm"] >= row["p_value"]
        expected = "no difference shown" if row["p_holm"] > 0.05 else "better" if row["difference"] > 0 else "worse"
        assert row["verdict"] == expected


def test_no_p_is_printed_below_what_it_is_known_to_be():
    line = {"seeds": 3, "difference": 0.1, "low": 0.05, "high": 0.15}
    floor, other = verdicts([line | {"p_value": P_FLOOR}, line | {"p_value": 0.01}])
    assert (floor["p_printed"], other["p_printed"]) == ("<=2e-12", "0.01")
    assert [p_text(p) for p in (floor["p_holm"], 0.00004, 0.00012, 1.0)] == [
        "<= 0.0001",
        "<= 0.0001",
        "0.0001",
        "1.0000",
    ]


def test_curves_in_numbers(store: Path):
    curves = curves_frame(observations(read_runs(store)))
    mine = curves[curves["method"] == "uniform"].set_index("measure")
    # At half of 430,000, between uniform1 and uniform2, in the logarithm.
    place = math.log(215_000 / 180_000) / math.log(290_000 / 180_000)
    low, high = accuracies("uniform", "uniform1"), accuracies("uniform", "uniform2")
    expected = [one + place * (two - one) for one, two in zip(low, high, strict=True)]
    half = mine.loc["accuracy"].query("madds_low == 215000").iloc[0]
    assert 100 * half["mean"] == pytest.approx(statistics.mean(expected))
    assert 100 * half["std"] == pytest.approx(statistics.stdev(expected))
    area = mine.loc["area"]
    assert (area["madds_low"], area["madds_high"]) == (100_000, 430_000)
    costs = np.log(list(WIDTHS.values()))
    areas = [np.trapezoid([accuracies("uniform", name)[s] for name in WIDTHS], costs) for s in range(3)]
    assert 100 * area["mean"] == pytest.approx(statistics.mean(areas) / (costs[-1] - costs[0]))
    single = curves[curves["method"] == "ds_net"]
    assert "area" not in set(single["measure"])  # one point is no curve
    assert single.set_index("measure").loc["hypervolume"]["mean"] > 0


def test_latency_is_the_median_over_runs(tmp_path: Path):
    store = Store(tmp_path)
    for seed, slow in enumerate((1.0, 5.0, 1.2)):
        spec = spec_of("us_net", seed)
        write_eval(store, spec, points_of("us_net", seed))
        write_profile(store, spec, points_of("us_net", seed), slow)
    table = latency_frame(read_runs(tmp_path)).set_index(["point", "form", "batch"])
    assert len(table) == 4 * 2 * 2
    row = table.loc["uniform0", "extracted", 1]
    assert row["median_ms"] == pytest.approx(1.2 * 0.3)
    assert row["p90_ms"] == pytest.approx(1.1 * 1.2 * 0.3)
    assert row["ratio_to_full"] == pytest.approx(100 / 430)
    assert (row["runs"], row["calls"], row["busy"]) == (3, 45, False)
    assert table.loc["uniform0", "extracted", 64]["busy"]


def test_another_meter_has_a_table(tmp_path: Path, tables_only: None):
    """Energy, by a meter that is not installed here; its median is over the runs, and latency is not in its table."""
    store = Store(tmp_path / "results")
    for seed, energy in enumerate((2.0, 9.0, 3.0)):
        spec = spec_of("us_net", seed)
        write_eval(store, spec, points_of("us_net", seed))
        how = {"meter": "energy", "device": "cpu", "batch": 8, "threads": 1, "busy": seed == 1}
        how["ratio_to_full"] = {"median": energy / 10}
        where = (spec.run_id, spec.method, spec.model, spec.data.name, SPLIT, "uniform0", seed)
        latency = record_of(spec, "uniform0", "latency_ms", 1.0, 7, "view", **how | {"meter": "latency"})
        records = [latency, Record(*where, "energy_mJ", energy, "mJ/batch", 7, "view", how)]
        store.write(spec.run_id, "profile", {"records": records, "results": {}})
    generate(store.root, tmp_path / "out", COMMAND)
    (row,) = csv(tmp_path / "out", "meters").to_dict("records")
    assert (row["metric"], row["unit"], row["value"], row["of_full"]) == ("energy_mJ", "mJ/batch", 3.0, 0.3)
    assert (row["runs"], row["calls"], row["busy"], row["batch"]) == (3, 21, "yes", 8)
    assert "| energy_mJ" in (tmp_path / "out" / "tables" / "meters.md").read_text()
    assert len(csv(tmp_path / "out", "latency")) == 1


@pytest.mark.slow
def test_equal_records_give_equal_bytes(store: Path, report: Path, tmp_path: Path):
    """Another process, without torch; runs in another order, other latencies: those files, and the site, differ."""
    again = tmp_path / "again"
    other = make_store(tmp_path / "reversed", profile=False)
    for run in reversed(read_runs(store)):
        write_profile(other, run.spec, points_of(run.spec.method, run.spec.seed), slow=2.0)
    call = [sys.executable, "-W", "error", "-c", REPORT, str(other.root), str(again), COMMAND]
    subprocess.run(call, check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    first = {path.relative_to(report): path.read_bytes() for path in report.rglob("*.*")}
    second = {path.relative_to(again): path.read_bytes() for path in again.rglob("*.*")}
    assert first.keys() == second.keys()
    differing = {path.name for path in first if first[path] != second[path] and path.parts[0] != "site"}
    assert differing == {name for name in (path.name for path in first) if "latency" in name}


@pytest.mark.usefixtures("tables_only")
def test_runs_that_are_not_complete_are_listed(tmp_path: Path):
    store = make_store(tmp_path, profile=False)
    store.open_run(spec_of("us_net", 7))
    failed = spec_of("uniform", 8)
    store.open_run(failed)
    store.write_error(failed.run_id, "train", UserError("the disk | is full\nsecond line"))
    generate(tmp_path, tmp_path, COMMAND)
    failures = (tmp_path / "tables" / "failures.md").read_text()
    assert f"| {spec_of('us_net', 7).run_id}" in failures
    assert "train, eval, profile" in failures
    assert "the disk \\| is full" in failures
    assert "second line" not in failures
    leaderboard = (tmp_path / "tables" / "leaderboard.md").read_text()
    assert "not evaluated: 2 runs (see failures.md)" in leaderboard


@pytest.mark.usefixtures("tables_only")
def test_what_has_nothing_to_show_any_more_is_removed(tmp_path: Path):
    store = make_store(tmp_path, profile=True)
    unfinished = store.open_run(spec_of("us_net", 7))
    generate(tmp_path, tmp_path, COMMAND)
    assert (tmp_path / "tables" / "failures.md").exists()
    (unfinished / "spec.json").unlink()
    kept = tmp_path / "tables" / "mine.md"
    kept.write_text("notes")
    generate(tmp_path, tmp_path, COMMAND)
    assert not (tmp_path / "tables" / "failures.md").exists()
    assert kept.exists()


def test_before_anything_is_evaluated_only_the_listings_are_written(tmp_path: Path):
    Store(tmp_path).open_run(spec_of("us_net", 0))
    names = {path.name for path in generate(tmp_path, tmp_path, COMMAND) if path.parent.name == "tables"}
    assert names == {"failures.md", "failures.tex", "reported.md", "reported.tex"}


def test_an_unwritable_place_is_one_sentence(store: Path, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot create"):
        generate(store, tmp_path / "file", COMMAND)


def test_latex_says_what_markdown_says(report: Path):
    for page in (report / "tables").glob("*.md"):
        text = page.with_suffix(".tex").read_text()
        tables = text.split(r"\begin{table*}")[1:]
        rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
        assert len(tables) == sum(set(row) <= set("|:- ") for row in rows)
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\caption{") == len(tables)
        assert sum(line.endswith(r"\\") for line in text.splitlines()) == len(rows) - len(tables)
    leaderboard = (report / "tables" / "leaderboard.tex").read_text()
    assert r"300 images, 3 seeds, ds\_mobilenet\_v1\_micro. n = 300 test images" in leaderboard


def test_hostile_names_stay_in_their_cells(tmp_path: Path):
    name = r"a|b & 50 % of_x {y} \input{z} #1 ~^ $"
    frame = pd.DataFrame({"split": ["s_1"], "point": [name], "x": [1]})
    section = Section("s_1", frame, [name_column("point"), Column("x", "x")])
    md, tex = Page("t", "T", [], [section]).write(tmp_path, Stamp("c", "d"), Chosen())
    assert r"a\|b & 50 % of_x" in md.read_text()
    (row,) = [line for line in tex.read_text().splitlines() if "of" in line]
    assert row.replace(r"\&", "").count("&") == 1
    assert r"50 \% of\_x \{y\} \textbackslash{}input" in row
    assert r"\caption{T: s\_1.}" in tex.read_text()


def test_rows_and_columns_are_chosen(store: Path, tmp_path: Path, tables_only):
    """In Markdown and LaTeX, in the order that is asked for; the CSV file stays whole, and a caption says what n is."""
    chosen = Chosen({"method": ["us_net", "uniform"]}, ["point", "method", "score_percent_std"])
    generate(store, tmp_path, COMMAND, chosen=chosen)
    lines = (tmp_path / "tables" / "leaderboard.md").read_text().splitlines()
    header, _, *rows = [line for line in lines if line.startswith("|")]
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["point", "method", "score_percent_std"]
    assert {row.split("|")[2].strip() for row in rows} == {"us_net", "uniform"}
    assert len(rows) == 8
    assert len(csv(tmp_path, "leaderboard")) == 14
    tex = (tmp_path / "tables" / "leaderboard.tex").read_text()
    assert "3 seeds. n = 300 test images and 3 seeds.}" in tex
    generate(store, tmp_path, COMMAND)
    tex = (tmp_path / "tables" / "leaderboard.tex").read_text()
    assert r"n = 300 test images and 3 seeds. Intervals are 95 \%.}" in tex


@pytest.mark.parametrize("chosen", [Chosen({"methods": ["us_net"]}), Chosen({}, ["scor_percent"])])
def test_a_column_that_no_table_has_is_refused(store: Path, tmp_path: Path, tables_only, chosen: Chosen):
    with pytest.raises(UserError, match=r"unknown column '(methods|scor_percent)'.*'?(method|score_percent)"):
        generate(store, tmp_path, COMMAND, chosen=chosen)


def test_numbers_in_tables():
    assert fixed(2, 100)(0.70096) == "70.10"
    assert fixed(2)(-0.001) == "0.00"
    assert (signed(1)(1.25), signed(1)(-1.26), signed(1)(0.0)) == ("+1.2", "-1.3", "0.0")
    assert count(132890143.6) == "132,890,144"
    assert (number(7676204), number(2.5)) == ("7676204", "2.50")
    assert interval(0.5, 0.6) == "[50.00, 60.00]"
    assert interval(math.nan, math.nan) == NONE
    assert sorted(["uniform10", "uniform9", "largest"], key=natural) == ["largest", "uniform9", "uniform10"]


@pytest.mark.parametrize(
    ("text", "md", "spreadsheet"),
    [
        ("=HYPERLINK(1)", "=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("@SUM(1)", "@SUM(1)", "'@SUM(1)"),
        (" +1+cmd", " +1+cmd", "' +1+cmd"),
        ("-5.25", "-5.25", "-5.25"),
        ("<script>x</script>", "&lt;script>x&lt;/script>", "<script>x</script>"),
        ("<= 0.0001", "<= 0.0001", "<= 0.0001"),
        ("[a](http://b)", "[a]&#40;http://b)", "[a](http://b)"),
        ("two\nlines\r|\x1b[2J\u202e", "two lines \\| [2J ", "two lines | [2J "),
        ("half \ud800", "half  ", "half  "),
        ("a\\|b", "a&#92;\\|b", "a\\|b"),
    ],
)
def test_text_is_text_in_every_kind_of_file(tmp_path: Path, text: str, md: str, spreadsheet: str):
    assert (markdown(text), for_csv(text)) == (md, spreadsheet)
    with plain_strings():
        frame = pd.DataFrame({"split": ["s"], "point": [text]})
        section = Section(text, frame, [name_column("point")], text)
        page = Page("t", text, [], [section], (frame, section.columns))
        written = page.write(tmp_path, Stamp("c", "d"), Chosen())
    for path in written:
        assert "<script" not in path.read_text(encoding="utf-8") or path.suffix != ".md"
        assert not {"\x1b", "\u202e"} & set(path.read_text(encoding="utf-8"))
    rows = [line for line in (tmp_path / "t.md").read_text().splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert all(row.replace("\\|", "").count("|") == 2 for row in rows)

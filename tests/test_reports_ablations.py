"""Ablation tables on made-up runs: each variant against its full method, whatever else lies in the store."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_store import WIDTHS, dynamic_point, make_store, solved, spec_of, static_point, write_eval

from bench.core.ablation import Group, read_ablations, write_ablation
from bench.core.store import Store
from bench.reports import figures, generate
from bench.reports.ablations import changed_settings, sections
from bench.reports.differences import scores_by_row
from bench.reports.frame import points_frame
from bench.reports.runs import read_runs
from bench.statistics.crossed import compare

SEEDS = range(3)


def worse_point(seed: int) -> dict:
    point = dynamic_point(seed, clever=True)
    return point | {"score": solved(f"worse/{seed}", seed, 0.5), "madds": point["madds"] // 2}


def write_arm(store: Store, points, **options) -> list[str]:
    """A run and its fixed choices on every seed; their run_ids."""
    ids = []
    for seed in SEEDS:
        run = spec_of("ds_net", seed, **options)
        fixed = spec_of("fixed_choice", seed, run)
        write_eval(store, run, points(seed))
        write_eval(store, fixed, {name: static_point("fixed_choice", name, seed) for name in WIDTHS})
        ids += [run.run_id, fixed.run_id]
    return ids


def full_points(seed: int) -> dict[str, dict]:
    return {"dynamic0-1": dynamic_point(seed, clever=True), "dynamic1-2": dynamic_point(seed, clever=False)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = make_store(tmp_path_factory.mktemp("store"), profile=False)  # runs that have no part in it
    full = write_arm(store, full_points, gate_lr=20.0)
    worse = write_arm(store, lambda seed: {"dynamic0-1": worse_point(seed)}, gate_lr=2.0, recalibrate=False)
    other = write_arm(store, lambda seed: {"dynamic0-3": worse_point(seed)}, gate_lr=20.0, random_widths=1)
    write_ablation(store.root, "ablation_x", [Group({"full": full, "much worse": worse}, None)])
    dynamic = [[run for run in arm if run.startswith("ds_net")] for arm in (full, other)]
    write_ablation(store.root, "spaces", [Group(dict(zip(("full", "another"), dynamic, strict=True)), "dynamic0-1")])
    return store.root


def found(store: Path, recipe: str):
    runs = read_runs(store)
    (section,) = sections(read_ablations(store)[recipe], points_frame(runs), runs, scores_by_row(runs))
    return section


def test_a_row_by_another_way(store: Path):
    section = found(store, "ablation_x")
    assert section.heading == "digits/official@1:test, ds_net on ds_mobilenet_v1_micro"
    assert section.text == "Full method: gate_lr=20.0."
    rows = section.frame.set_index("point")
    assert list(rows.index) == ["dynamic0-1", *WIDTHS], "points that both have, and no other"
    assert set(rows["arm"]) == {"much worse"}
    assert set(rows["changed"]) == {"gate_lr=2.0, recalibrate=false"}
    ours = {seed: worse_point(seed)["score"] for seed in SEEDS}
    theirs = {seed: full_points(seed)["dynamic0-1"]["score"] for seed in SEEDS}
    row = rows.loc["dynamic0-1"]
    assert row["difference"] == pytest.approx(np.mean([ours[s].mean() - theirs[s].mean() for s in SEEDS]))
    pair = compare(ours, theirs)
    assert pair is not None
    assert (row["low"], row["high"], row["p_value"]) == (pair.low, pair.high, pair.p_value)
    assert (row["seeds"], row["verdict"]) == (3, "worse")
    halves = [full_points(s)["dynamic0-1"]["madds"] // 2 for s in SEEDS]
    whole = [full_points(s)["dynamic0-1"]["madds"] for s in SEEDS]
    assert row["madds_change"] == pytest.approx(np.mean(halves) / np.mean(whole) - 1)


def test_equal_sub_networks_differ_by_nothing(store: Path):
    rows = found(store, "ablation_x").frame.set_index("point").loc[list(WIDTHS)]
    assert (rows["difference"] == 0).all()
    assert (rows["madds_change"] == 0).all()
    assert (rows["p_holm"] == 1).all()
    assert set(rows["verdict"]) == {"no difference shown"}


def test_dynamic_points_may_all_be_held_against_one(store: Path):
    rows = found(store, "spaces").frame
    assert list(zip(rows["arm"], rows["point"], rows["against"], strict=True)) == [
        ("full", "dynamic1-2", "dynamic0-1"),
        ("another", "dynamic0-3", "dynamic0-1"),
    ]
    assert list(rows["changed"]) == ["", "random_widths=1"]


def test_the_same_comparison_counts_once_and_missing_runs_are_left_out(store: Path):
    runs = read_runs(store)
    points, scores = points_frame(runs), scores_by_row(runs)
    (group,) = read_ablations(store)["ablation_x"]
    fewer = Group({words: ids[:2] for words, ids in group.arms.items()}, None)
    assert len(sections([group, fewer], points, runs, scores)) == 1, (
        "all seeds of a config count, however few were noted"
    )
    absent = Group({**group.arms, "never run": ["ds_net-0123456789ab"]}, None)
    (section,) = sections([absent], points, runs, scores)
    assert set(section.frame["arm"]) == {"much worse"}
    assert (
        sections([Group({"full": ["ds_net-0123456789ab"], "b": fewer.arms["full"]}, None)], points, runs, scores) == []
    )


def test_a_setting_that_only_the_full_method_names_is_at_its_default(store: Path):
    runs = {run.run_id: run for run in read_runs(store)}
    (group,) = read_ablations(store)["ablation_x"]
    full, worse = (runs[ids[0]] for ids in group.arms.values())
    assert changed_settings(full, worse) == "gate_lr=20.0, recalibrate=default"
    assert changed_settings(full, full) == ""


def test_the_tables(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("write_accuracy_madds", "write_accuracy_latency", "write_routing"):
        monkeypatch.setattr(figures, name, lambda *_: [])
    for out in ("one", "two"):
        names = ("tables/ablation_old.md", "figures/.routing_x.png.0123.tmp", "site/assets/.site.js.0123.tmp")
        stale = [tmp_path / out / name for name in names]
        for file in stale:
            file.parent.mkdir(parents=True)
            file.touch()
        generate(store, tmp_path / out, "slicebench report")
        assert not any(file.exists() for file in stale)
    for name in ("ablation_x.md", "ablation_x.csv", "ablation_spaces.md", "ablation_spaces.csv"):
        first, second = ((tmp_path / out / "tables" / name).read_bytes() for out in ("one", "two"))
        assert first == second, name
    text = (tmp_path / "one" / "tables" / "ablation_x.md").read_text()
    assert "Full method: gate_lr=20.0." in text
    assert "against" not in text.split("Full method")[1]
    assert "| against " in (tmp_path / "one" / "tables" / "ablation_spaces.md").read_text()
    table = pd.read_csv(tmp_path / "one" / "tables" / "ablation_x.csv", skiprows=1)
    assert table["difference_percent"][0] == pytest.approx(
        table["score_percent"][0] - table["full_score_percent"][0], abs=2e-4
    )


def test_multiply_adds_are_of_the_seeds_that_both_have(tmp_path: Path):
    """Gates that spend more on a seed which the other arm lacks do not change the comparison."""
    store = Store(tmp_path)

    def costly(seed: int) -> dict[str, dict]:
        point = dynamic_point(seed, clever=True)
        return {"dynamic0-1": point | {"madds": point["madds"] * (100 if seed == 0 else 1)}}

    full = write_arm(store, costly, gate_lr=20.0)
    some = [spec_of("ds_net", seed, gate_lr=2.0) for seed in SEEDS[1:]]
    for spec in some:
        write_eval(store, spec, costly(spec.seed))
    write_ablation(store.root, "ablation_x", [Group({"full": full, "some": [spec.run_id for spec in some]}, None)])
    (row,) = found(tmp_path, "ablation_x").frame.to_dict("records")
    assert row["seeds"] == 2
    assert (
        row["madds_mean"]
        == row["other_madds"]
        == np.mean([costly(seed)["dynamic0-1"]["madds"].mean() for seed in (1, 2)])
    )
    assert row["madds_change"] == 0


def test_a_variant_may_work_on_the_network_of_the_full_method(tmp_path: Path):
    store, arms = Store(tmp_path), {"full": [], "again": []}
    for seed in SEEDS:
        full = spec_of("ds_net", seed)
        again = spec_of("ds_net", seed, full, gate_lr=2.0)
        write_eval(store, full, full_points(seed))
        write_eval(store, again, {"dynamic0-1": worse_point(seed)})
        arms["full"].append(full.run_id)
        arms["again"] += [full.run_id, again.run_id]
    write_ablation(store.root, "gates", [Group({**arms, "not run": arms["full"]}, None)])
    frame = found(tmp_path, "gates").frame
    assert list(frame["point"]) == ["dynamic0-1"]
    assert set(frame["arm"]) == {"again"}
    assert set(frame["changed"]) == {"gate_lr=2.0, on the full method's network"}
    assert set(frame["verdict"]) == {"worse"}

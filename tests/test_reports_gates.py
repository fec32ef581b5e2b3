"""What gates do with images, by hand and on made-up runs: entropy, separation, the oracle, its worth."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_store import (
    DYNAMIC,
    IMAGES,
    WIDTHS,
    dynamic_point,
    make_store,
    points_of,
    spec_of,
    static_point,
    write_eval,
)

from bench.core.metrics import METRICS
from bench.core.store import Store
from bench.reports import figures, generate
from bench.reports.controls import HULL, controls_frame, fixed_points, on_the_hull
from bench.reports.differences import Scored, scores_by_row
from bench.reports.frame import points_frame
from bench.reports.gates import gates_frame
from bench.reports.runs import EvaluatedPoint, read_runs
from bench.statistics.routing import entropy_bits, is_wide, level_routes, oracle, sent_on, separation


def test_entropy_of_routes():
    assert entropy_bits(np.array([[0], [1], [2], [3]])) == 2.0
    assert entropy_bits(np.array([[5], [5]])) == 0.0
    assert entropy_bits(np.array([[0, 0], [0, 1], [0, 0], [0, 0]])) == pytest.approx(
        -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    )


def test_who_is_sent_on():
    narrow = np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    is_wide = np.array([True, True, False, True, False])
    assert sent_on(is_wide, narrow) == (pytest.approx(2 / 3), 0.5)
    wrong, right = sent_on(is_wide, np.ones(5))
    assert math.isnan(wrong)
    assert right == 0.6
    assert sent_on(np.array([True, False]), np.array([0.25, 0.75])) == (0.75, 0.25)  # scores that are no yes or no


def test_separation_by_hand_and_over_all_pairs():
    narrow = np.array([0.0, 1.0, 0.0, 1.0])
    assert separation(np.array([9, 1, 8, 2]), narrow) == 1.0
    assert separation(np.array([1, 9, 2, 8]), narrow) == 0.0
    assert separation(np.array([4, 4, 4, 4]), narrow) == 0.5
    assert separation(np.array([3, 1, 1, 2]), narrow) == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert math.isnan(separation(np.array([1, 2, 3, 4]), np.ones(4)))
    generator = np.random.default_rng(0)
    spent, scores = generator.integers(4, size=60), generator.random(60).round(2)
    pairs = [
        ((1 - scores[i]) * scores[j], (spent[i] > spent[j]) + (spent[i] == spent[j]) / 2)
        for i in range(60)
        for j in range(60)
    ]
    expected = sum(weight * won for weight, won in pairs) / sum(weight for weight, _ in pairs)
    assert separation(spent, scores) == pytest.approx(expected)


def test_the_oracle_takes_the_cheapest_choice_that_solves_an_image_else_the_cheapest():
    costs = np.array([40.0, 10.0, 20.0])
    scores = np.array([[1, 1, 0, 1], [0, 1, 0, 0], [0, 1, 0, 1]], dtype=np.float32)
    found = oracle(costs, scores)  # 40, 10, 10 (nobody), 20
    assert found.score == 0.75
    assert found.madds == (40 + 10 + 10 + 20) / 4


def test_no_routing_of_fixed_choices_beats_the_oracle():
    generator = np.random.default_rng(1)
    scores = (generator.random((3, 50)) < 0.5).astype(np.float32)
    best = oracle(np.array([1.0, 2.0, 3.0]), scores)
    assert best.score == scores.max(axis=0).mean()
    taken = generator.integers(3, size=(200, 50))
    for route in taken:
        solved = scores[route, np.arange(50)].mean()
        assert solved <= best.score


def test_what_is_sent_on_is_judged_by_what_gates_may_take():
    """Gates that send every image to the last option of their lists send every image on."""
    route = np.array([[1, 2], [1, 2]])
    assert is_wide([[0, 1], [0, 2]], route).all()
    assert not is_wide([[1, 3], [2, 3]], route).any()
    assert is_wide([[1, 2], [1, 2]], route).all()
    assert is_wide(None, np.array([[0], [1]])).tolist() == [False, True]


def evaluated(name: str, space: list[list[int]] | None, route: tuple[int, ...] | None = None) -> EvaluatedPoint:
    kind = "dynamic" if route is None else "static"
    return EvaluatedPoint(name, kind, None, space, route, {}, METRICS["top1"], {})


def test_level_routes_keep_the_last_place_of_a_shorter_list():
    assert level_routes([[0, 1], [0, 2]]) == [(0, 0), (1, 2)]
    assert level_routes([[0, 1, 3], [2]]) == [(0, 2), (1, 2), (3, 2)]


def test_which_fixed_points_lie_in_a_routing_space():
    """Whatever the points are called: their routes say it."""
    fixed = [evaluated(name, None, route) for name, route in (("a", (0, 0)), ("b", (1, 1)), ("c", (1, 2)))]
    assert fixed_points(evaluated("x", [[0, 1], [0, 1]]), fixed) == ["a", "b"]
    assert fixed_points(evaluated("x", [[0, 1], [0, 2]]), fixed) == ["a", "c"]
    assert fixed_points(evaluated("x", [[0, 1], [0, 3]]), fixed) == [], "(1, 3) was not run"
    assert fixed_points(evaluated("x", [[0, 1]]), fixed) == []
    assert fixed_points(evaluated("x", None), fixed) == []


def test_the_hull_by_hand():
    narrow, middle, wide = (np.array(score, np.uint8) for score in ([1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 0]))
    fixed = {"a": Scored(narrow, 10.0), "b": Scored(middle, 20.0), "c": Scored(wide, 30.0)}
    found = on_the_hull(15.0, fixed)
    assert found is not None
    mixture, members = found
    assert (mixture.score.tolist(), mixture.madds, members) == ([1.0, 0.25, 0.25, 0.0], 15.0, ["a", "c"])
    assert on_the_hull(5.0, fixed) is None
    assert on_the_hull(99.0, {}) is None
    alone = on_the_hull(99.0, fixed)
    assert alone is not None
    assert (alone[0].madds, alone[1]) == (30.0, ["c"])


@pytest.mark.parametrize(("options", "members"), [([0, 1, 2], "uniform1, uniform2"), ([0, 3], "uniform0, uniform3")])
def test_the_hull_is_of_what_the_gate_may_choose(tmp_path: Path, options: list[int], members: str):
    """The others are no control of it, however good they are; those that are mixed are named."""
    store = Store(tmp_path)
    for seed in range(3):
        gate = spec_of("ds_net", seed)
        write_eval(store, gate, {"gate": dynamic_point(seed, clever=True, options=options)})
        write_eval(store, spec_of("fixed_choice", seed, gate), points_of("fixed_choice", seed))
    runs = read_runs(tmp_path)
    (row,) = controls_frame(points_frame(runs), runs, scores_by_row(runs)).to_dict("records")
    assert row["members"] == members
    assert row["other_madds"] == pytest.approx(row["madds_mean"])
    assert row["verdict"] != "collapsed"


@pytest.mark.parametrize("seeds", [2, 3])
def test_a_gate_that_sends_all_images_one_way_has_collapsed(tmp_path: Path, seeds: int):
    """In every seed, be it another way in each."""
    store = Store(tmp_path)
    for seed in range(seeds):
        gate = spec_of("ds_net", seed)
        point = dynamic_point(seed, clever=True)
        taken = static_point("fixed_choice", f"uniform{seed}", seed)
        one_way = taken | {"kind": "dynamic", "route": np.full_like(point["route"], seed)}
        other = one_way | {"route": np.where(np.arange(IMAGES) < (seed == 1), 3, seed)[:, None]}
        points = {"gate": one_way, "other": other}
        write_eval(store, gate, points)
        write_eval(store, spec_of("random_gate", seed, gate), points)
        write_eval(store, spec_of("fixed_choice", seed, gate), points_of("fixed_choice", seed))
    runs = read_runs(tmp_path)
    points = points_frame(runs)
    controls = controls_frame(points, runs, scores_by_row(runs))
    told = {(row["point"], row["role"]): row["verdict"] for row in controls.to_dict("records")}
    rest = "fewer than 3 seeds" if seeds < 3 else "no difference shown"
    assert (told["gate", "random"], told["gate", "fixed"]) == ("collapsed", "collapsed")
    assert told["other", "random"] == rest, "one image of one seed went another way"
    gates = gates_frame(points, runs, controls).set_index("point")
    assert (gates["random_verdict"]["gate"], gates["hull_verdict"]["gate"]) == ("collapsed", "collapsed")
    assert gates["random_verdict"]["other"] == rest


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"), profile=False).root


def test_the_frame_by_another_way(store: Path):
    runs = read_runs(store)
    points = points_frame(runs)
    controls = controls_frame(points, runs, scores_by_row(runs))
    (row,) = gates_frame(points, runs, controls).to_dict("records")
    regrets, oracles, spent, auc = [], [], [], []
    for seed in range(3):
        gate = points_of("ds_net", seed)[DYNAMIC]
        fixed = points_of("fixed_choice", seed)
        solved = np.stack([fixed[name]["score"] for name in WIDTHS])
        cheapest = [next((i for i in range(4) if solved[i, image]), 0) for image in range(solved.shape[1])]
        oracles.append(solved.max(0).mean())
        spent.append(np.mean([list(WIDTHS.values())[i] for i in cheapest]))
        regrets.append(oracles[-1] - gate["score"].mean())
        wrong, right = gate["madds"][solved[0] == 0], gate["madds"][solved[0] == 1]
        auc.append(((wrong[:, None] > right).mean() + (wrong[:, None] >= right).mean()) / 2)
    assert row["oracle_score"] == pytest.approx(np.mean(oracles))
    assert row["oracle_madds"] == pytest.approx(np.mean(spent))
    assert row["regret"] == pytest.approx(np.mean(regrets), abs=1e-6)
    assert row["separation"] == pytest.approx(np.mean(auc))
    assert row["separation"] > 0.8, "these gates know what is hard"
    assert row["separation_low"] < row["separation"] < row["separation_high"]
    assert row["entropy"] == pytest.approx(-(3 * 0.2 * math.log2(0.2) + 0.4 * math.log2(0.4)))
    assert row["wide_if_wrong"] == 1.0
    by_control = controls.set_index("control")
    for short, name in (("random", "random_gate"), ("hull", HULL)):
        assert row[f"{short}_difference"] == by_control["difference"][name]
        assert row[f"{short}_verdict"] == by_control["verdict"][name]


def test_the_table(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("write_accuracy_madds", "write_accuracy_latency", "write_routing"):
        monkeypatch.setattr(figures, name, lambda *_: [])
    for out in ("one", "two"):
        generate(store, tmp_path / out, "slicebench report")
    for kind in ("md", "csv"):
        first, second = ((tmp_path / out / "tables" / f"gates.{kind}").read_bytes() for out in ("one", "two"))
        assert first == second
    text = (tmp_path / "one" / "tables" / "gates.md").read_text()
    assert "oracle % (derived)" in text
    assert "0: 20%, 1: 20%, 2: 20%, 3: 40%" in text
    table = pd.read_csv(tmp_path / "one" / "tables" / "gates.csv", skiprows=1)
    assert table["regret_percent"][0] == pytest.approx(
        table["oracle_score_percent_derived"][0] - table["score_percent"][0], abs=2e-4
    )


def test_without_fixed_choices_there_is_no_oracle(tmp_path: Path):
    import shutil

    root = make_store(tmp_path, profile=False).root
    for folder in (root / "runs").glob("fixed_choice-*"):
        shutil.rmtree(folder)
    runs = read_runs(root)
    points = points_frame(runs)
    controls = controls_frame(points, runs, scores_by_row(runs))
    (row,) = gates_frame(points, runs, controls).to_dict("records")
    assert math.isnan(row["oracle_score"])
    assert math.isnan(row["separation"])
    assert row["hull_verdict"] is None
    assert row["random_difference"] > 0
    assert row["entropy"] > 0


@pytest.mark.parametrize("front", [None, 0, 90_000])
def test_what_a_cascades_networks_share_stands_in_its_row(tmp_path: Path, front: int | None):
    store = Store(tmp_path)
    for seed in range(3):
        gate = spec_of("ds_net", seed)
        write_eval(store, gate, {"gate": dynamic_point(seed, clever=True) | {"front_madds": front}})
        write_eval(store, spec_of("fixed_choice", seed, gate), points_of("fixed_choice", seed))
    runs = read_runs(tmp_path)
    points = points_frame(runs)
    (row,) = gates_frame(points, runs, controls_frame(points, runs, scores_by_row(runs))).to_dict("records")
    assert math.isnan(row["front_madds"]) if front is None else row["front_madds"] == front

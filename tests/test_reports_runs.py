"""Which runs are seeds of one config, how variants are told apart, and what a damaged store says."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_store import (
    DYNAMIC,
    IMAGES,
    QUALITY,
    ROLES,
    make_store,
    points_of,
    spec_of,
    write_eval,
    write_old_eval,
)

from bench.core.errors import UserError
from bench.core.settings import with_settings
from bench.core.spec import RunSpec
from bench.core.store import Store
from bench.reports import figures, generate
from bench.reports.differences import read_scores
from bench.reports.frame import load, observations, points_frame
from bench.reports.old_files import _space
from bench.reports.runs import Run, config_of, read_runs, settings_of
from bench.reports.variants import variants
from bench.statistics.per_image import PointScores


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store")).root


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """A store of its own, to be damaged."""
    return Path(shutil.copytree(store, tmp_path / "copy"))


def config(spec: RunSpec, *others: RunSpec) -> str:
    return config_of(settings_of(spec, {other.run_id: other for other in others}))


def test_only_the_seed_may_differ_within_a_config():
    spec = spec_of("us_net", 0)
    assert config(spec) == config(spec_of("us_net", 1))
    for key, value in {"epochs": "3", "threads": "2", "options.random_widths": "1", "data.train_images": "9"}.items():
        assert config(with_settings(spec, {key: value})) != config(spec), key


def test_a_control_goes_by_its_parents_config():
    parents = [spec_of("ds_net", seed) for seed in range(2)]
    other = spec_of("ds_net", 0, random_widths=1)
    everyone = [*parents, other]
    same = [config(spec_of("random_gate", seed, parent), *everyone) for seed, parent in enumerate(parents)]
    assert same[0] == same[1]
    assert config(spec_of("random_gate", 0, other), *everyone) != same[0]
    # One seed on two checkpoints is not two seeds; nor is a checkpoint that is not in the store.
    assert config(spec_of("random_gate", 0, parents[1]), *everyone) != same[0]
    assert config(spec_of("random_gate", 0, parents[0])) != same[0]


def with_digests(store: Store, spec: RunSpec, train: str | None, test: str | None) -> None:
    """An evaluated run that has recorded these digests of its data."""
    write_eval(store, spec, points_of(spec.method, spec.seed))
    for phase, name, digest in (("train", "train", train), ("eval", "test", test)):
        body = store.read(spec.run_id, phase)
        if digest:
            store.write(spec.run_id, phase, body | {"results": body["results"] | {"digests": {name: digest}}})


def test_seeds_on_different_data_are_two_rows_of_two_tables(tmp_path: Path):
    store, (first, second) = Store(tmp_path), (spec_of("us_net", seed) for seed in range(2))
    with_digests(store, first, "a", "b")
    with_digests(store, second, "a", "b")
    assert set(points_frame(read_runs(tmp_path))["seeds"]) == {2}
    with_digests(store, second, "c", "d")
    points = points_frame(read_runs(tmp_path))
    assert set(points["seeds"]) == {1}
    assert points["split"].nunique() == points["dataset"].nunique() == 2
    assert all(split.startswith("digits/official@1-") for split in points["split"])
    assert points.groupby("split")["on_front"].any().all(), "each has a front of its own"
    generate(tmp_path, tmp_path, "test")
    assert (tmp_path / "tables" / "leaderboard.md").read_text().count("## digits/official@1-") == 2


def test_seeds_that_trained_on_different_data_are_two_rows_of_one_table(tmp_path: Path):
    store = Store(tmp_path)
    parents = [spec_of("ds_net", seed) for seed in range(2)]
    for parent, digest in zip(parents, ("a", "c"), strict=True):
        with_digests(store, parent, digest, "b")
        with_digests(store, spec_of("fixed_choice", parent.seed, parent), None, "b")
    runs = read_runs(tmp_path)
    points = points_frame(runs)
    assert (set(points["seeds"]), set(points["split"])) == ({1}, {"digits/official@1:test"})
    assert all(label.startswith(("digest=", "parent.digest=")) for label in variants(runs).values())
    parent_of = {run.spec.seed: run.config_id for run in runs if run.spec.method == "ds_net"}
    assert {run.spec.seed: run.parent_config for run in runs if run.spec.method == "fixed_choice"} == parent_of


def test_other_methods_on_another_test_split_of_that_name_are_in_another_table(tmp_path: Path):
    store = Store(tmp_path)
    with_digests(store, spec_of("us_net", 0), "a", "b")
    with_digests(store, spec_of("ds_net", 0), "c", "d")
    points = points_frame(read_runs(tmp_path))
    assert points.groupby("split")["method"].nunique().tolist() == [1, 1]
    assert set(points["variant"]) == {""}


def test_runs_without_digests_stay_as_they_are(tmp_path: Path):
    store = Store(tmp_path)
    with_digests(store, spec_of("us_net", 0), None, None)
    with_digests(store, spec_of("us_net", 1), "a", "b")
    points = points_frame(read_runs(tmp_path))
    assert (set(points["seeds"]), set(points["split"])) == ({2}, {"digits/official@1:test"})


def test_a_run_that_was_cut_short_and_its_controls_say_so_first(tmp_path: Path):
    store = Store(tmp_path)
    cut = with_settings(spec_of("ds_net", 0), {"train.max_steps": "2"})
    alone = with_settings(spec_of("uniform", 0), {"train.max_steps": "2"})
    specs = (spec_of("ds_net", 0), cut, spec_of("fixed_choice", 0, cut), alone)
    for spec in specs:
        store.open_run(spec)
    runs = {run.run_id: run for run in read_runs(tmp_path)}
    label = variants(list(runs.values()))
    labels = [label[runs[spec.run_id].config_id] for spec in specs]
    assert labels == ["", "not trained here, max_steps=2", "not trained here", "not trained here"]


def test_variants_name_what_differs_and_only_that(tmp_path: Path):
    store = Store(tmp_path)
    plain, wide = spec_of("ds_net", 0), spec_of("ds_net", 0, random_widths=1)
    longer = with_settings(wide, {"train.epochs": "20"})
    control = spec_of("fixed_choice", 0, wide)
    for spec in (plain, wide, longer, control, spec_of("fixed_choice", 0, plain), spec_of("uniform", 0)):
        store.open_run(spec)
    runs = {run.run_id: run for run in read_runs(tmp_path)}
    label = {run_id: variants(list(runs.values()))[run.config_id] for run_id, run in runs.items()}
    assert label[plain.run_id] == label[spec_of("uniform", 0).run_id] == ""
    assert label[wide.run_id] == "random_widths=1"
    assert label[longer.run_id] == "random_widths=1, epochs=20"
    assert label[control.run_id] == "parent.random_widths=1"


def test_a_variant_tells_its_parent_by_what_differs_from_itself(tmp_path: Path):
    store = Store(tmp_path)
    parent = with_settings(spec_of("ds_net", 0), {"train.epochs": "7"})
    scratch = with_settings(parent, {"data.train_images": "9"})
    started = with_settings(scratch, {"init_from": parent.run_id})
    longer = with_settings(started, {"train.epochs": "8"})
    for spec in (parent, scratch, started, longer):
        store.open_run(spec)
    runs = {run.run_id: run for run in read_runs(tmp_path)}
    label = {run_id: variants(list(runs.values()))[run.config_id] for run_id, run in runs.items()}
    assert label[parent.run_id] == "epochs=7"
    assert label[scratch.run_id] == "train_images=9, epochs=7"
    assert label[started.run_id] == "train_images=9, parent.method=ds_net, epochs=7"
    assert label[longer.run_id].endswith("parent.method=ds_net, parent.epochs=7, epochs=8")


def test_two_variants_are_two_rows(tmp_path: Path):
    store = Store(tmp_path)
    for seed in range(3):
        for options in ({}, {"random_widths": 1}):
            write_eval(store, spec_of("us_net", seed, **options), points_of("us_net", seed))
    points = points_frame(read_runs(tmp_path))
    assert len(points) == 2 * 4
    assert set(points["seeds"]) == {3}


def test_records_are_tidy(store: Path):
    frame = load(store)
    runs = read_runs(store)
    assert len(frame) == sum(len(run.records(phase)) for run in runs for phase in run.bodies)
    assert {"phase", "metric", "value", "unit", "n", "form", "config_id", "train.epochs", "seed"} <= set(frame.columns)
    one = frame[(frame["method"] == "us_net") & (frame["point"] == "uniform1") & (frame["metric"] == "top1")]
    assert sorted(one["seed"]) == [0, 1, 2]
    assert json.loads(frame[frame["metric"] == "latency_ms"]["details"].iloc[0])["threads"] == 1


def test_an_empty_directory_gets_one_sentence(tmp_path: Path):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"there are no runs in .*slicebench run RECIPE"):
            generate(root, tmp_path / "out", "slicebench report")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "nowhere").exists()


def eval_of(root: Path) -> Path:
    return sorted(root.glob("runs/us_net-*/eval.json"))[0]


@pytest.mark.parametrize("damage", ["truncated", "changed", "not JSON"])
def test_a_damaged_record_is_named(copy: Path, damage: str):
    file = eval_of(copy)
    text = file.read_text()
    file.write_text(
        {"truncated": text[:200], "changed": text.replace('"correct": 2', '"correct": 3', 1), "not JSON": "?"}[damage]
    )
    with pytest.raises(UserError, match=r"us_net-\w+/eval.json is damaged"):
        generate(copy, copy, "slicebench report")


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_per_image_file_is_named(copy: Path, damage: str):
    file = eval_of(copy).with_name("per_image.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink() if damage == "missing" else file.write_bytes(content)
    with pytest.raises(UserError, match=r"per_image.safetensors is damaged"):
        generate(copy, copy, "slicebench report")


def test_scores_must_be_those_of_the_evaluation(copy: Path):
    """A per-image file with the right hash that says something else than the counts."""
    run = next(run for run in read_runs(copy) if run.spec.method == "us_net")
    assert set(read_scores(run)) == {"uniform0", "uniform1", "uniform2", "uniform3"}
    records = run.bodies["eval"]["records"]
    at = next(i for i, r in enumerate(records) if (r.point, r.metric) == ("uniform1", "top1"))
    records[at] = replace(records[at], value=records[at].value + 1 / IMAGES)
    with pytest.raises(UserError, match="scores of 'uniform1' are not the mean of"):
        read_scores(replace(run))


def test_an_evaluation_that_lacks_something_is_named(copy: Path):
    runs = read_runs(copy)
    broken: Run = next(run for run in runs if run.spec.method == "us_net")
    del broken.bodies["eval"]["results"]["points"]["uniform1"]["routing_space"]
    with pytest.raises(UserError, match=r"eval.json is damaged: its results lack 'routing_space'"):
        observations(runs)
    runs = read_runs(copy)
    broken = next(run for run in runs if run.spec.method == "us_net")
    broken.bodies["eval"]["records"] = [r for r in broken.records("eval") if r.metric != "madds"]
    with pytest.raises(UserError, match=r"eval.json is damaged: its records lack 'madds'"):
        observations(runs)


def test_old_files_give_the_same_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Those that named neither controls nor routes, kept numbers beside the records and all MAdds of an image."""
    for name in ("write_accuracy_madds", "write_accuracy_latency", "write_routing"):
        monkeypatch.setattr(figures, name, lambda *_: [])
    tables = {}
    for age, write in (("now", write_eval), ("old", write_old_eval)):
        store = Store(tmp_path / age)
        for seed in range(3):
            parent = spec_of("ds_net", seed)
            others = [spec_of(method, seed, parent) for method in ("random_gate", "fixed_choice")]
            for spec in (parent, *others, spec_of("uniform", seed)):
                write(store, spec, points_of(spec.method, seed))
        generate(store.root, store.root, "report")
        files = sorted((store.root / "tables").iterdir())
        tables[age] = {file.name: file.read_text().partition("\n")[2] for file in files}
    assert tables["now"] == tables["old"]
    assert {"leaderboard.csv", "controls.csv", "gates.csv"} <= tables["now"].keys()
    assert "oracle" in tables["old"]["gates.md"]


def test_a_small_per_image_file_says_the_same(tmp_path: Path):
    for write in (write_eval, write_old_eval):
        store = Store(tmp_path / write.__name__)
        write(store, spec_of("ds_net", 0), points_of("ds_net", 0))
    now, old = (read_scores(read_runs(tmp_path / write.__name__)[0])[DYNAMIC] for write in (write_eval, write_old_eval))
    for part in PointScores._fields:
        np.testing.assert_array_equal(getattr(now, part), getattr(old, part))
        assert getattr(now, part).dtype == getattr(old, part).dtype


@pytest.mark.parametrize("method", ["sliced_order", "a_plugin_of_mine"])
def test_what_says_that_it_is_a_control_is_marked_as_one(tmp_path: Path, method: str, monkeypatch):
    monkeypatch.setitem(ROLES, method, None)
    monkeypatch.setitem(QUALITY, method, 0.0)
    write_eval(Store(tmp_path), spec_of(method, 0), points_of(method, 0))
    assert points_frame(read_runs(tmp_path))["control"].all()


def test_old_names_of_points_are_read_once():
    assert _space("dynamic0-12-3", {"routing": {"12": 3}}) == [[0, 12, 3]]
    assert _space("dynamic0-1_0-2", {"routing": {"0-2": 3}}) == [[0, 1], [0, 2]]
    assert _space("dynamic0-2", {"routing": {"0-2-2": 3}}) == [[0, 2]] * 3
    assert _space("uniform3", {"routing": {}}) is None
    assert _space("budget0.5", {"routing": {"1": 3}}) is None

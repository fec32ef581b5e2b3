"""Which runs are seeds of one config, how variants are told apart, and what a damaged store says."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from bench.core.spec import RunSpec, TrainSpec
from bench.core.store import Store, digest
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


def test_a_field_that_is_added_later_changes_no_config():
    """As in a run_id: what has its default is left out, of parents too."""
    parent = replace(spec_of("ds_net", 0), train=TrainSpec(epochs=7))
    child = spec_of("random_gate", 0, parent)
    settings = settings_of(child, {parent.run_id: parent})
    as_added = {"train.workers", "parent.train.workers", "threads", "parent.profile.rounds"}
    assert as_added <= settings.keys()
    before = {key: value for key, value in settings.items() if key not in as_added}
    assert config_of(before) == config_of(settings)
    assert len({config_of(settings | {key: 3}) for key in ("train.workers", "parent.train.workers", "a")}) == 3


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
    for phase, name, seen in (("train", "train", train), ("eval", "test", test)):
        body = store.read(spec.run_id, phase)
        if seen:
            store.write(spec.run_id, phase, body | {"results": body["results"] | {"digests": {name: seen}}})


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
    for parent, seen in zip(parents, ("a", "c"), strict=True):
        with_digests(store, parent, seen, "b")
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


def sealed(file: Path, how: Callable[[dict], Any]) -> None:
    """Change a phase and seal it again, as somebody would who knows how digests are made."""
    body = json.loads(file.read_text())
    how(body)
    body["digest"] = digest(body["records"], body["results"])
    file.write_text(json.dumps(body))


def record_of(body: dict, metric: str) -> dict:
    return next(record for record in body["records"] if record["metric"] == metric)


def copied(file: Path) -> None:
    """The third seed did with every image what the first one did, and left its checkpoints."""
    first, *_, third = sorted(file.parent.parent.glob("us_net-*"), key=lambda each: read_seed(each))
    names = [json.loads((each / "spec.json").read_text())["seed"] for each in (first, third)]
    for phase in ("train", "eval"):
        text = (first / f"{phase}.json").read_text().replace(first.name, third.name)
        (third / f"{phase}.json").write_text(text.replace(f'"seed": {names[0]}', f'"seed": {names[1]}'))
        sealed(third / f"{phase}.json", lambda body: None)
    for each in (first, third):
        sealed(each / "train.json", lambda body: body["results"].update(checkpoints={"final": "0" * 64}))
    shutil.copy(first / "per_image.safetensors", third)


def read_seed(folder: Path) -> int:
    return json.loads((folder / "spec.json").read_text())["seed"]


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


BAD: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "cut short": (lambda file: file.write_text(file.read_text()[:200]), ["eval.json", "content", "not JSON ("]),
    "no JSON": (lambda file: file.write_text("?"), ["eval.json", "content", "not JSON ("]),
    "numbers that JSON has not": (
        lambda file: file.write_text(file.read_text().replace('"n": 300', '"n": NaN')),
        ["eval.json", "NaN is no number of JSON"],
    ),
    "brackets without end": (lambda file: file.write_text("[" * 100_000), ["eval.json", "not JSON ("]),
    "no object": (lambda file: file.write_text("[]"), ["eval.json", "not a JSON object"]),
    "of another run": (
        lambda file: file.write_text(file.read_text().replace('"us_net-', '"us_nut-', 1)),
        ["eval.json", "its run_id is 'us_nut-"],
    ),
    "changed by hand": (
        lambda file: file.write_text(file.read_text().replace('"correct": 2', '"correct": 3', 1)),
        ["eval.json", "do not match its digest"],
    ),
    "301 %": (lambda file: sealed(file, lambda b: record_of(b, "top1").update(value=3.01)), ["value of top1", "3.01"]),
    "a point more of accuracy": (
        lambda file: sealed(file, lambda b: record_of(b, "top1").update(value=record_of(b, "top1")["value"] + 0.01)),
        ["top1 of uniform0"],
    ),
    "1,000 multiply-adds": (
        lambda file: sealed(file, lambda b: record_of(b, "madds").update(value=1000)),
        ["madds of uniform0", "| 1000 ", "| 100000.0 "],
    ),
    "a number that is text": (
        lambda file: sealed(file, lambda b: record_of(b, "madds")["details"].update(min="few")),
        ["min of madds of uniform0", "few", "a whole number from 0"],
    ),
    "a number beyond all numbers": (
        lambda file: sealed(file, lambda b: record_of(b, "madds").update(value=10**400)),
        ["is too large a number"],
    ),
    "no routing space": (
        lambda file: sealed(file, lambda b: b["results"]["points"]["uniform1"].pop("routing_space")),
        ["routing_space of uniform1", "not there"],
    ),
    "a point whose name is a path": (
        lambda file: sealed(
            file, lambda b: b["results"]["points"].update({"../../x": b["results"]["points"].pop("uniform1")})
        ),
        ["name of a point", "../../x"],
    ),
    "a record of a script": (
        lambda file: sealed(file, lambda b: record_of(b, "top1").update(point="<script>")),
        ["point must be a name", "not '&lt;script>'"],
    ),
    "a record less": (
        lambda file: sealed(file, lambda b: b["records"].remove(record_of(b, "madds"))),
        ["records of uniform0", "without madds"],
    ),
    "scores elsewhere": (
        lambda file: sealed(file, lambda b: b["results"]["per_image"].update(file="../../../secret")),
        ["per_image.file", "../../../secret"],
    ),
    "no scores": (
        lambda file: file.with_name("per_image.safetensors").unlink(),
        ["per_image.safetensors", "not there"],
    ),
    "other scores": (lambda file: flipped(file.with_name("per_image.safetensors")), ["per_image.sha256"]),
    "fewer images than the others": (
        lambda file: write_eval(
            Store(file.parents[2]),
            next(s for seed in range(3) if (s := spec_of("us_net", seed)).run_id == file.parent.name),
            {
                name: point | {part: point[part][:-1] for part in ("score", "madds", "route")}
                for name, point in points_of("us_net", read_seed(file.parent)).items()
            },
        ),
        ["images of digits/official@1:test", "| 299 ", "300, those of the other runs"],
    ),
    "a link": (
        lambda file: (file.rename(file.parents[2] / "other.json"), file.symlink_to(file.parents[2] / "other.json")),
        ["kind of file", "a link or a special file"],
    ),
    "a spec that is none": (lambda file: file.with_name("spec.json").write_text("{}"), ["spec.json", "is missing"]),
    "an error that is none": (lambda file: file.with_name("error.json").write_text("[]"), ["error.json"]),
    "a latency without a batch": (
        lambda file: sealed(
            file.with_name("profile.json"), lambda b: record_of(b, "latency_ms")["details"].pop("batch")
        ),
        ["profile.json", "batch of latency_ms of uniform0"],
    ),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.usefixtures("no_figures")
def test_a_bad_run_is_set_apart_and_the_others_are_shown(copy: Path, bad: str):
    how, words = BAD[bad]
    file = eval_of(copy)
    others = copy.parent / "others"
    how(file)
    with pytest.warns(UserWarning, match=rf"1 runs are set apart.*runs/{file.parent.name}"):
        generate(copy, copy, "slicebench report")
    said = (copy / "tables" / "failures.md").read_text()
    assert "## Set apart" in said
    assert all(word in said for word in words), said
    if not (copy / "tables" / "leaderboard.csv").exists():
        pytest.fail("the others are not shown")
    shutil.copytree(copy, others, ignore=shutil.ignore_patterns(file.parent.name, "tables"))
    generate(others, others, "slicebench report")  # as if the bad run had never been there
    tables = {path.name for path in (others / "tables").iterdir()} - {"failures.md", "failures.tex"}
    assert [
        name for name in tables if (copy / "tables" / name).read_bytes() != (others / "tables" / name).read_bytes()
    ] == []
    with pytest.raises(UserError, match=rf"{file.parent.name}"):
        load(copy)


@pytest.mark.usefixtures("no_figures")
def test_seeds_that_are_copies_are_set_apart(copy: Path):
    copied(eval_of(copy))
    with pytest.warns(UserWarning, match="2 runs are set apart"):
        generate(copy, copy, "slicebench report")
    assert "another seed" in (copy / "tables" / "failures.md").read_text()


@pytest.mark.usefixtures("no_figures")
def test_a_comparison_that_cannot_be_read_and_names_that_are_paths(copy: Path, tmp_path: Path):
    """What is compared comes from a file of the results too."""
    (copy / "ablations").mkdir()
    group = {"arms": {"full": ["us_net-000000000000"]}, "reference": None}
    for number, body in enumerate(({"recipe": "../../../escaped", "groups": [group]}, {"recipe": "x", "groups": 3})):
        (copy / "ablations" / f"{number}.json").write_text(json.dumps(body))
    before, out = set(tmp_path.rglob("*")), tmp_path / "out"
    with pytest.warns(UserWarning, match="set apart"):
        generate(copy, out, "slicebench report")
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(out)} == before
    assert "ablations/1.json" in (out / "tables" / "failures.md").read_text()


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("write_accuracy_madds", "write_accuracy_latency", "write_routing"):
        monkeypatch.setattr(figures, name, lambda *_: [])


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


@pytest.mark.usefixtures("no_figures")
def test_old_files_give_the_same_tables(tmp_path: Path):
    """Those that named neither controls nor routes, kept numbers beside the records and all MAdds of an image."""
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

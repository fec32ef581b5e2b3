"""One run, phase by phase: what it leaves in the store, that it is done once, and that failures are written down."""

import hashlib
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from bench.core.errors import UserError
from bench.core.metrics import METRICS
from bench.core.registry import load_plugin
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.core.store import PHASES, Busy, Store
from bench.data import load
from bench.methods import METHODS, Method, completed
from bench.points import StaticPoint
from bench.profilers import METERS
from bench.runs import phases as run_module
from bench.runs import profile as profile_module
from bench.runs.phases import run_phase
from bench.runs.run import open_run
from bench.statistics.per_image import unpack
from bench.training import checkpoint

TEST_IMAGES = 597
SMALL = {
    "data": DataSpec(train_images=120),
    "train": TrainSpec(epochs=1, batch_size=60),
    "profile": ProfileSpec(batch_sizes=(1, 600), rounds=2, warmup=0),
}
UNIFORM = completed(RunSpec("uniform", "ds_mobilenet_micro8", options={"choices": (0,)}, **SMALL))
DS_NET = completed(RunSpec("ds_net", "ds_mobilenet_micro8", options={"gate_epochs": 1}, **SMALL))
FIXED = completed(RunSpec("fixed_choice", "ds_mobilenet_micro8", init_from=DS_NET.run_id, **SMALL))


def run_all_phases(store: Store, *specs: RunSpec) -> None:
    for spec in specs:
        for phase in PHASES:
            run_phase(spec, phase, store.root, None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("results"))
    run_all_phases(store, UNIFORM, DS_NET, FIXED)
    return store


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch):
    """Registers a method for one test whose `points` is the given function."""

    def register(points) -> RunSpec:
        kind = type("Broken", (Method,), {"name": "broken", "kind": "static", "points": points})
        monkeypatch.setattr(METHODS, "_entries", METHODS._entries | {"broken": kind})
        return RunSpec("broken", "ds_mobilenet_micro8", **SMALL)

    return register


# What a run leaves.


@pytest.mark.parametrize("spec", [UNIFORM, DS_NET, FIXED], ids=lambda spec: spec.method)
def test_every_phase_is_complete_and_says_where_it_ran(store, spec):
    assert store.read_spec(spec.run_id) == spec
    assert store.read_error(spec.run_id) is None
    for phase in PHASES:
        body = store.read(spec.run_id, phase)
        assert body["timing"]["seconds"] > 0
        assert body["environment"]["threads"] == 1
        assert "torch" in body["environment"]["versions"]
    files = {path.name for path in store.path(spec.run_id).iterdir() if not path.name.startswith(".")}
    assert files - {"checkpoints"} == {"spec.json", "train.json", "eval.json", "profile.json", "per_image.safetensors"}


def test_training_names_its_checkpoints_by_their_hash(store):
    folder = store.path(DS_NET.run_id) / "checkpoints"
    named = store.read(DS_NET.run_id, "train")["results"]["checkpoints"]
    assert set(named) == {"supernet", "final", "gate0"}
    for name, digest in named.items():
        file = folder / f"{name}.safetensors"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
        checkpoint.load(file, DS_NET.run_id)  # the run's id is inside
    assert store.read(FIXED.run_id, "train")["results"]["checkpoints"] == {}  # it has its parent's


@pytest.mark.parametrize("spec", [UNIFORM, DS_NET, FIXED], ids=lambda spec: spec.method)
def test_the_evaluation_and_its_images_agree(store, spec):
    body = store.read(spec.run_id, "eval")
    file = store.path(spec.run_id) / "per_image.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == body["results"]["per_image"]["sha256"]
    images = load_file(file)
    values = {(record.point, record.metric): record for record in body["records"]}
    for name, point in body["results"]["points"].items():
        score, madds, route = unpack(name, images)
        assert score.shape == madds.shape == (TEST_IMAGES,)
        assert route.shape == (TEST_IMAGES, 1 if point["kind"] == "dynamic" else 0)
        assert images[f"{name}/score"].dtype == images[f"{name}/route"].dtype == np.uint8
        assert point["headline"] == "top1"
        assert values[name, "top1"].details == {"correct": int(score.sum())}
        assert values[name, "top1"].value == int(score.sum()) / TEST_IMAGES
        assert values[name, "top1"].split == body["results"]["split"] == "digits/official@1:test"
        assert values[name, "madds"].value == pytest.approx(madds.mean())
        spread = values[name, "madds"].details
        assert (spread["min"], spread["max"]) == (madds.min(), madds.max())
        assert madds.min() <= spread["p10"] <= spread["p50"] <= spread["p90"] <= madds.max()
        assert sum(point["routing"].values()) in (0, TEST_IMAGES)
        assert values[name, "params_active"].value <= values[name, "params_stored"].value
        assert point["executed_proof"]["counters"]
        params = images[f"{name}/params"][images[f"{name}/route"]]
        assert values[name, "params_active"].value == pytest.approx(params.mean())


def test_the_evaluation_says_what_each_point_is(store):
    """No reader has to guess it from a name."""
    said = {spec.method: store.read(spec.run_id, "eval")["results"]["points"] for spec in (UNIFORM, DS_NET, FIXED)}
    assert {point["method_kind"] for point in said["ds_net"].values()} == {"dynamic"}
    assert all(point["control"] is None for method in ("uniform", "ds_net") for point in said[method].values())
    assert all(p["control"] == {"of": DS_NET.run_id, "role": "fixed"} for p in said["fixed_choice"].values())
    (dynamic,) = said["ds_net"].values()
    assert dynamic["kind"] == "dynamic"
    routes = [point["route"] for point in said["fixed_choice"].values()]
    assert [[option] for option in dynamic["routing_space"][0]] == routes
    assert all(point["route"] is point["routing_space"] is None for point in said["uniform"].values())


def test_results_hold_no_time_or_place(store):
    body = json.loads((store.path(DS_NET.run_id) / "eval.json").read_text())
    told = json.dumps({"records": body["records"], "results": body["results"]})
    for word in ("seconds", "load", "host", "python", str(store.root)):
        assert word not in told


def test_every_form_is_timed_at_every_batch_size(store):
    """Also where a batch is larger than the test split: its images are repeated."""
    for spec, forms in ((UNIFORM, {"extracted"}), (DS_NET, {"view", "extracted"}), (FIXED, {"view", "extracted"})):
        points = set(store.read(spec.run_id, "eval")["results"]["points"])
        records = store.read(spec.run_id, "profile")["records"]
        assert {(r.point, r.form, r.details["batch"], r.metric) for r in records} == {
            (point, form, batch, metric)
            for point in points
            for form in forms
            for batch in (1, 600)
            for metric in ("latency_ms", "images_per_s")
        }
        for record in records:
            assert record.unit == METRICS[record.metric].unit
            assert record.n == 2
            assert record.value > 0
            assert record.details["ratio_to_full"]["median"] > 0
            assert record.details["device"] == "cpu"


CPU_METER = """
import time
from bench.profilers import METERS
from bench.profilers.meter import Meter, growth

METERS.add("cpu", Meter("cpu", "ms", growth(lambda: 1e3 * time.process_time())))
"""


def test_another_meter_is_a_file_and_stands_in_the_records_with_its_unit(store, tmp_path, monkeypatch):
    """Of a plugin, as energy would be: measured in rounds of its own, and read where the plugin is not."""
    plugin = tmp_path / "cpu_meter.py"
    plugin.write_text(CPU_METER)
    profile = ProfileSpec(batch_sizes=(1, 8), rounds=6, warmup=1, meters=("latency", "cpu"))
    spec = replace(UNIFORM, profile=profile)
    monkeypatch.setattr(METERS, "_entries", dict(METERS._entries))
    load_plugin(plugin)
    run_all_phases(store, spec)
    monkeypatch.undo()
    assert "cpu" not in METERS
    records = store.read(spec.run_id, "profile")["records"]
    told = {(r.metric, r.unit, r.details["meter"], r.details["batch"]) for r in records}
    assert told == {
        (metric, unit, meter, batch)
        for metric, unit, meter in (
            ("latency_ms", "ms/batch", "latency"),
            ("images_per_s", "images/s", "latency"),
            ("cpu_ms", "ms/batch", "cpu"),
        )
        for batch in (1, 8)
    }
    for record in records:
        assert (record.n, record.form, record.details["warmup"]) == (6, "extracted", 1)
        assert record.details["ratio_to_full"]["interval"][0] <= record.details["ratio_to_full"]["median"]
        if record.metric != "images_per_s":
            assert record.value == record.details["median_ms"] > 0


def test_timed_batches_are_whole():
    split = load(DataSpec()).open_test()
    cpu = torch.device("cpu")
    assert [len(x) for x in profile_module.timed_batches(split, 1, cpu)] == [1] * 64
    assert [len(x) for x in profile_module.timed_batches(split, 48, cpu)] == [48, 48]
    (large,) = profile_module.timed_batches(split, 1300, cpu)
    images = next(split.batches(TEST_IMAGES)).x
    assert torch.equal(large, torch.cat([images, images, images])[:1300])
    assert large.is_contiguous(memory_format=torch.channels_last)


# Once, and to the same numbers.


def test_a_complete_phase_is_not_done_again(store, monkeypatch):
    monkeypatch.setattr(run_module, "_perform", lambda *_: pytest.fail("it was done again"))
    before = (store.path(UNIFORM.run_id) / "eval.json").read_bytes()
    run_all_phases(store, UNIFORM)
    assert (store.path(UNIFORM.run_id) / "eval.json").read_bytes() == before


def test_the_same_spec_gives_the_same_results_in_another_store(store, tmp_path):
    again = Store(tmp_path)
    torch.manual_seed(99)  # whatever was done before in the process
    for phase in ("train", "eval"):
        run_phase(DS_NET, phase, again.root, None)
        assert again.read(DS_NET.run_id, phase)["digest"] == store.read(DS_NET.run_id, phase)["digest"]


def test_an_evaluation_taken_away_is_made_anew_from_the_checkpoints(store, tmp_path):
    folder = store.path(DS_NET.run_id)
    before = json.loads((folder / "eval.json").read_text())["digest"]
    (folder / "eval.json").rename(tmp_path / "eval.json")
    (folder / "per_image.safetensors").unlink()
    run_phase(DS_NET, "eval", store.root, None)
    assert store.read(DS_NET.run_id, "eval")["digest"] == before


# What a finished run left is compared before it is read.


def copied(store: Store, root: Path, *specs: RunSpec) -> Store:
    """The trainings of some runs in a store of their own."""
    for spec in specs:
        shutil.copytree(store.path(spec.run_id), root / "runs" / spec.run_id)
        for phase in ("eval", "profile"):
            (root / "runs" / spec.run_id / f"{phase}.json").unlink()
    return Store(root)


def damage(store: Store, spec: RunSpec, name: str, how: str) -> Path:
    """A checkpoint taken away, or replaced by one that this run could have written."""
    file = store.path(spec.run_id) / "checkpoints" / f"{name}.safetensors"
    tensors, notes = checkpoint.load(file, spec.run_id)
    file.unlink()
    if how == "changed":
        checkpoint.save(file, {key: tensor + 1 for key, tensor in tensors.items()}, spec.run_id, notes)
    return file


@pytest.mark.parametrize(("how", "sentence"), [("missing", "is missing"), ("changed", "is not the one that .* left")])
@pytest.mark.parametrize("phase", ["eval", "profile"])
def test_a_run_is_judged_by_the_checkpoints_that_it_left(store, tmp_path, phase, how, sentence):
    other = copied(store, tmp_path, UNIFORM)
    file = damage(other, UNIFORM, "uniform0", how)
    with pytest.raises(UserError, match=rf"uniform0\.safetensors.* {sentence}"):
        run_phase(UNIFORM, phase, other.root, None)
    assert file.exists() == (how == "changed"), "nothing is trained in its place"
    assert not other.has(UNIFORM.run_id, phase)


@pytest.mark.parametrize(("how", "sentence"), [("missing", "is missing"), ("changed", "is not the one that .* left")])
def test_a_child_starts_from_the_checkpoints_that_its_parent_left(store, tmp_path, how, sentence):
    """Also a control, whenever it reads them, and a run that trains on."""
    other = copied(store, tmp_path, DS_NET, FIXED)
    damage(other, DS_NET, "final", how)
    for spec, phase in ((replace(DS_NET, init_from=DS_NET.run_id), "train"), (FIXED, "eval"), (FIXED, "profile")):
        with pytest.raises(UserError, match=rf"{DS_NET.run_id}/checkpoints/final\.safetensors.* {sentence}"):
            run_phase(spec, phase, other.root, None)


def test_nothing_is_judged_before_it_is_trained(tmp_path):
    for phase in ("eval", "profile"):
        with pytest.raises(UserError, match=f"{UNIFORM.run_id} has not been trained yet"):
            run_phase(UNIFORM, phase, tmp_path, None)
    assert not (tmp_path / "runs" / UNIFORM.run_id / "checkpoints").exists()


def test_a_finished_run_that_trained_on_needs_its_parent_no_more(store, tmp_path):
    other = copied(store, tmp_path, DS_NET)
    child = replace(DS_NET, init_from=DS_NET.run_id)
    run_phase(child, "train", other.root, None)
    shutil.rmtree(other.path(DS_NET.run_id))
    run_phase(child, "eval", other.root, None)
    assert open_run(other, child, None).parent is None


def test_an_opened_run_and_its_parent(store):
    run = open_run(store, FIXED.run_id, None)
    assert (run.spec, run.folder, run.weights) == (FIXED, store.path(FIXED.run_id), store.weights)
    assert run.parent is not None
    assert (run.parent.spec, run.parent.parent) == (DS_NET, None)
    assert run.parent.options.gate_epochs == 1
    assert run.parent.data is run.data
    with pytest.raises(UserError, match="there is no run uniform-0 in"):
        open_run(store, "uniform-0", None)


# Failures.


def test_a_failure_is_written_down_and_raised_and_forgotten_after_success(tmp_path, broken):
    def fails(self, run):
        raise RuntimeError("no luck")

    spec = broken(fails)
    with pytest.raises(RuntimeError, match="no luck"):
        run_phase(spec, "train", tmp_path, None)
    store = Store(tmp_path)
    error = store.read_error(spec.run_id)
    assert error is not None
    assert (error["phase"], error["type"], error["message"]) == ("train", "RuntimeError", "no luck")
    assert "raise RuntimeError" in error["traceback"]
    assert not store.has(spec.run_id, "train")
    assert not (store.path(spec.run_id) / "lease.json").exists()

    def works(self, run):
        return [StaticPoint("one", torch.nn.Flatten(), 0)]

    broken(works)
    run_phase(spec, "train", tmp_path, None)
    assert store.has(spec.run_id, "train")
    assert store.read_error(spec.run_id) is None


@pytest.mark.parametrize(("names", "sentence"), [([], "yielded no points"), (["a", "a"], "two points named a")])
def test_points_that_cannot_be_told_apart(tmp_path, broken, names, sentence):
    spec = broken(lambda *_: [StaticPoint(name, torch.nn.Flatten(), 0) for name in names])
    with pytest.raises(UserError, match=sentence):
        run_phase(spec, "train", tmp_path, None)


def test_threads_are_those_of_the_spec_and_put_back(tmp_path, broken):
    seen = []
    spec = replace(broken(lambda *_: seen.append(torch.get_num_threads()) or []), threads=2)
    before = torch.get_num_threads()
    with pytest.raises(UserError):
        run_phase(spec, "train", tmp_path, None)
    assert seen == [2]
    assert torch.get_num_threads() == before


def test_a_run_that_someone_else_works_on(tmp_path):
    store = Store(tmp_path)
    with store.lease(UNIFORM.run_id), pytest.raises(Busy):
        run_phase(UNIFORM, "train", tmp_path, None)
    assert store.read_error(UNIFORM.run_id) is None  # waiting is not failing


def test_what_cannot_be_run(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="a phase is one of train, eval, profile, not 'test'"):
        run_phase(UNIFORM, "test", tmp_path, None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no CUDA device here"):
        run_phase(replace(UNIFORM, device="cuda"), "train", tmp_path, None)
    with pytest.raises(UserError, match=f"there is no run {DS_NET.run_id} in "):
        run_phase(FIXED, "train", tmp_path, None)


def test_another_spec_in_the_folder_of_a_run_is_an_error(tmp_path):
    store = Store(tmp_path)
    folder = store.open_run(UNIFORM)
    Path(folder / "spec.json").write_text(json.dumps(DS_NET.to_json()))
    with pytest.raises(UserError, match=r"spec\.json is damaged: it describes"):
        run_phase(UNIFORM, "train", tmp_path, None)


def test_two_processes_do_not_do_a_run_twice(tmp_path, broken):
    """The second one meets the lease; when it is free, the phase is complete and nothing is left to do."""
    entered, leave, done = threading.Event(), threading.Event(), []

    def slow(self, run):
        done.append(run.run_id)
        entered.set()
        assert leave.wait(20)
        return [StaticPoint("one", torch.nn.Flatten(), 0)]

    spec = broken(slow)
    first = threading.Thread(target=run_phase, args=(spec, "train", tmp_path, None))
    first.start()
    assert entered.wait(20)
    with pytest.raises(Busy):
        run_phase(spec, "train", tmp_path, None)
    leave.set()
    first.join()
    run_phase(spec, "train", tmp_path, None)
    assert done == [spec.run_id]

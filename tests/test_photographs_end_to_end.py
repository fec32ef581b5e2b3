"""The full-size recipes, two steps each, on files in the exact formats: both stages, evaluation, profile, tables."""

from dataclasses import replace
from pathlib import Path

import pytest
from data_archives import made_up_cifar100, write_binary100
from image_folders import CLASSES, write_folders

from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.core.store import PHASES, Store
from bench.data.cifar import Sizes, load_cifar100
from bench.executors.serial import run_all
from bench.models import PRESETS
from bench.recipes import registry as recipes
from bench.reports import generate
from bench.runs.check import check
from bench.runs.estimate import estimates
from bench.runs.prepare import placed, with_overrides

TWO_STEPS = {
    "train.max_steps": "2",
    "train.batch_size": "2",
    "data.train_images": "8",
    "profile.rounds": "2",
    "profile.warmup": "1",
    "profile.batch_sizes": "[1]",
}
MARK = "not trained here"


def ran(specs: list[RunSpec], folder: Path, data: Path) -> dict[str, str]:
    """The tables of some runs, by name, all phases complete."""
    summary = run_all(specs, folder, data)
    assert summary.ok, summary.failed
    assert all(Store(folder).has(spec.run_id, phase) for spec in specs for phase in PHASES)
    generate(folder, folder, "test")
    return {path.name: path.read_text() for path in (folder / "tables").glob("*.md")}


def assert_marked(tables: dict[str, str], methods: set[str]) -> None:
    for name in ("leaderboard.md", "curves.md", "latency.md"):
        rows = [line for line in tables[name].splitlines() if set(line.replace("|", " ").split()) & methods]
        assert rows, name
        assert all(MARK in row for row in rows), name


@pytest.mark.slow
def test_imagenet_with_ds_mobilenet_at_224_for_two_steps(tmp_path):
    """Stage I, recalibration, stage II of three budgets, both controls: the recipe as it is, but for its length."""
    write_folders(tmp_path / "imagenet", train=20, val=1, size=240)
    settings = {**TWO_STEPS, "data.protocol": "subset", "options.routing": "[[0, 1, 2, 3]]"}
    specs = with_overrides(recipes.resolve("imagenet_ds_mbnet", range(1)), settings)
    specs = placed(specs, "cpu")
    check(specs, tmp_path)
    assert [spec.method for spec in specs] == ["ds_net", "random_gate", "fixed_choice"]
    assert all((spec.model, spec.data.name) == ("ds_mobilenet_v1", "imagenet") for spec in specs)
    net = PRESETS.get("ds_mobilenet_v1").build(classes=len(CLASSES))
    found = [estimates(specs, tmp_path)[spec.run_id] for spec in specs]  # what --dry-run shows
    assert {(each.madds, each.images) for each in found} == {(net.cost(net.space.largest, 224).madds, 8)}
    assert found[0].hours is not None
    assert found[0].hours > 0
    assert [each.hours for each in found[1:]] == [None, None]
    tables = ran(specs, tmp_path / "results", tmp_path)
    assert_marked(tables, {"ds_net", "random_gate", "fixed_choice"})
    assert "imagenet/subset4@1:test, 4 images" in tables["leaderboard.md"]
    assert f"{net.cost(net.space.uniform(3), 224).madds:,}" in tables["leaderboard.md"]  # at full image size


@pytest.mark.slow
def test_cifar100_for_two_steps(tmp_path, monkeypatch):
    """Both stages on the authors' binary layout, the archive being smaller than theirs."""
    write_binary100(tmp_path / "cifar-100-binary", made_up_cifar100(200))
    sizes = Sizes(batch=200, calibration=100, validation=100)
    monkeypatch.setattr("bench.data.cifar.Sizes", lambda: sizes)
    assert len(load_cifar100(DataSpec("cifar100"), tmp_path).train) == 800
    options = {"routing": ((0, 1, 2, 3),), "gate_epochs": 1}
    train = TrainSpec(epochs=1, batch_size=16, max_steps=2)
    profile = ProfileSpec(batch_sizes=(1,), rounds=2, warmup=1)
    dynamic = RunSpec(
        "ds_net", "ds_mobilenet_micro32", DataSpec("cifar100", train_images=64), train, profile, options=options
    )
    control = replace(dynamic, method="random_gate", options={}, init_from=dynamic.run_id)
    tables = ran(placed([dynamic, control], "cpu"), tmp_path / "results", tmp_path)
    assert_marked(tables, {"ds_net", "random_gate"})
    assert "cifar100/official@1:test, 200 images" in tables["leaderboard.md"]


@pytest.mark.slow
def test_a_corrupt_test_image_leaves_no_partial_record(tmp_path):
    write_folders(tmp_path / "imagenet", train=20, val=1, size=32)
    path = tmp_path / "imagenet" / "val" / CLASSES[1] / f"{CLASSES[1]}_0.JPEG"
    path.write_bytes(b"\xff\xd8 no image \xff\xd9")  # only decoding finds it
    data = DataSpec("imagenet", "subset", image_size=32)
    train = TrainSpec(epochs=1, batch_size=8, max_steps=1)
    spec = RunSpec("uniform", "ds_mobilenet_micro32", data, train, options={"choices": (0,)})
    summary = run_all(placed([spec], "cpu"), tmp_path / "results", tmp_path)
    (why,) = summary.failed.values()
    assert str(path) in why
    assert "\n" not in why
    store = Store(tmp_path / "results")
    (run_id,) = store.runs()
    assert store.has(run_id, "train")
    assert not store.has(run_id, "eval")

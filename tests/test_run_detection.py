"""Detection from end to end on painted rectangles: every method of the recipe, evaluated, proven, reported, drawn."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from torchvision.ops import box_iou
from voc_folder import make_set

from bench import cli
from bench.commands import draw
from bench.core.errors import UserError
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.core.store import PHASES, Store
from bench.methods import METHODS, Method, completed
from bench.points import StaticPoint
from bench.recipes.detection import bccd, detectors, voc_animals, voc_ds_mbnet
from bench.reports import generate
from bench.reports.runs import read_runs
from bench.runs.check import check
from bench.runs.phases import run_phase
from bench.runs.prepare import placed

DATA = DataSpec("voc", "painted", image_size=64)
TRAIN = TrainSpec(epochs=1, batch_size=8, lr=0.01)
GATE = {"routing": ((0, 1, 2, 3),), "gate_epochs": 1}
TEST_IMAGES = 5


def specs_of(seed=0):
    specs = detectors(DATA, TRAIN, GATE, widths=(0.25,), choices=(0,))
    quick = ProfileSpec(batch_sizes=(1,), rounds=1, warmup=0)
    changed = {}
    for spec in specs:
        parent = changed[spec.init_from].run_id if spec.init_from else None
        changed[spec.run_id] = completed(replace(spec, seed=seed, profile=quick, init_from=parent))
    return list(changed.values())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_set(root, train=16, val=8, test=TEST_IMAGES)
    return root


@pytest.fixture(scope="module")
def store(root, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("results"))
    for spec in specs_of():
        for phase in PHASES:
            run_phase(spec, phase, store.root, root)
    return store


@pytest.fixture(scope="module")
def tables(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    generate(store.root, out, "test")
    return out / "tables"


def evaluations(store):
    return {run.spec.method: run for run in read_runs(store.root)}


def test_every_method_of_the_recipe_is_evaluated(store):
    found = evaluations(store)
    assert set(found) == {"ds_net", "random_gate", "fixed_choice", "us_net", "uniform", "class_prior"}
    assert all(run.missing == [] for run in found.values())


def test_metrics_are_named_apart_with_the_precision_of_each_class(store):
    for method, run in evaluations(store).items():
        records = {(r.point, r.metric): r for r in run.records("eval")}
        for point, summary in run.bodies["eval"]["results"]["points"].items():
            main = records[point, "map50_voc"]
            assert summary["headline"] == "map50_voc"
            assert (point, "top1") not in records
            assert main.details["classes"].keys() == {"blue", "red"}
            assert main.value == pytest.approx(np.mean(list(main.details["classes"].values())))
            low, high = main.details["interval"]
            assert 0 <= low <= main.value <= high <= 1
            assert 0 <= records[point, "map50_voc07"].value <= 1
            assert records[point, "f1_image"].n == TEST_IMAGES
            assert ((point, "madds_backbone") in records) == (method != "class_prior")


class Knowing(torch.nn.Module):
    """Detections by hand: each image, known by its mean colour, has an output of its own.

    x: (B, 3, S, S) to (B, A, 4 + classes). known: (N, 3) mean colours; outputs: (N, A, 4 + classes).
    """

    def __init__(self, known, outputs):
        super().__init__()
        self.same = torch.nn.Linear(3, 3, bias=False)  # something to count: 9 multiply-adds
        torch.nn.init.eye_(self.same.weight)
        self.register_buffer("known", known)
        self.register_buffer("outputs", outputs)

    def forward(self, x):
        apart = self.same(x.mean((2, 3)))[:, None] - self.known
        return self.outputs[(1 - apart * apart).sum(2).argmax(1)]


class ByHand(Method):
    """Of five test images, whose blue boxes are five and whose red ones two, it finds four blue ones and one red, and
    is surest of a blue box where there is none."""

    name, kind = "by_hand", "static"

    def points(self, run):
        data = run.data
        task, batch = run.task, next(data.open_test().batches(TEST_IMAGES))
        outputs = torch.full((TEST_IMAGES, len(task.anchors), 4 + len(data.classes)), -9.0)
        outputs[..., :4] = 0
        for number, table in enumerate(batch.targets):
            for *box, label, _ in table[table[:, 4] >= 0].tolist():
                if (number, data.classes[int(label)]) == (3, "red"):
                    continue  # missed
                wrong = number == 0
                box = torch.tensor([[box[0] + 32, box[1], box[2] + 32, box[3]] if wrong else box])
                at = int(box_iou(box, task.anchors).argmax())
                outputs[number, at, :4] = task.coder.encode_single(box, task.anchors[at : at + 1])[0]
                outputs[number, at, 4 + int(label)] = 8.0 if wrong else 4.0
        return [StaticPoint("known", Knowing(batch.x.mean((2, 3)), outputs), 9)]


def test_what_is_found_is_judged_as_by_hand(root, tmp_path, monkeypatch):
    """Blue, best first: false, then four right of five objects, so precision is at most 4/5, up to recall 4/5. Red: one
    right of two. F1 of the images: 0, 1, 1, 2/3 (one of two found), 1."""
    monkeypatch.setattr(METHODS, "_entries", METHODS._entries | {"by_hand": ByHand})
    store, spec = Store(tmp_path / "results"), replace(specs_of()[-1], method="by_hand", method_version=1)
    for phase in PHASES[:2]:
        run_phase(spec, phase, store.root, root)
    (run,) = read_runs(store.root)
    found = {record.metric: record for record in run.records("eval")}
    assert found["map50_voc"].details["objects"] == {"blue": 5, "red": 2}
    assert found["map50_voc"].details["classes"] == pytest.approx({"blue": 4 / 5 * 4 / 5, "red": 1 / 2})
    assert found["map50_voc"].value == pytest.approx((0.64 + 0.5) / 2)
    assert found["map50_voc07"].details["classes"] == pytest.approx({"blue": 9 / 11 * 4 / 5, "red": 6 / 11})
    assert found["map50_voc07"].value == pytest.approx((7.2 + 6) / 22)
    assert found["f1_image"].value == pytest.approx((0 + 1 + 1 + 2 / 3 + 1) / 5)
    generate(store.root, tmp_path, "test")
    table = pd.read_csv(tmp_path / "tables" / "detection.csv", skiprows=1)
    assert dict(zip(table["class"], table["ap50_voc_percent"], strict=True)) == {"blue": 64.0, "red": 50.0}
    assert table["map50_voc_percent"].tolist() == [57.0, 57.0]


def test_backbone_and_head_add_up(store):
    from bench.models import PRESETS

    run = evaluations(store)["fixed_choice"]
    net = PRESETS.get(run.spec.model).build(classes=2)
    values = {(r.point, r.metric): r.value for r in run.records("eval")}
    for number in range(4):
        choice = net.space.uniform(number)
        shape = (net.space.width(choice, len(net.space.stages) - 1), 8, 8)
        head = net.segments[-1].units[-1].cost(choice, shape).madds  # type: ignore[union-attr]
        assert values[f"uniform{number}", "madds"] - values[f"uniform{number}", "madds_backbone"] == head


def test_per_image_scores_stay_beside_the_run(store):
    for run in evaluations(store).values():
        arrays = load_file(run.folder / "per_image.safetensors")
        for point in run.points:
            score = arrays[f"{point}/score"]
            assert score.shape == (TEST_IMAGES,)
            assert float(score.mean(dtype=np.float64)) == run.points[point].paired.value


def test_claims_are_proven_for_every_image(store):
    for run in evaluations(store).values():
        for summary in run.bodies["eval"]["results"]["points"].values():
            assert summary["executed_proof"]["networks"]


def test_the_leaderboard_says_what_it_orders_by(tables):
    text = (tables / "leaderboard.md").read_text()
    assert "mAP@0.5 %" in text
    assert "top-1 %" not in text
    assert "top-1 %" not in (tables / "controls.md").read_text()
    assert "F1 %" in (tables / "controls.md").read_text()
    assert "mAP@0.5 at" in (tables / "curves.md").read_text()
    table = pd.read_csv(tables / "leaderboard.csv", skiprows=1)
    assert set(table["metric"]) == {"map50_voc"}
    assert not [name for name in table if "top1" in name]


def test_the_table_of_detectors_has_every_class_and_seed(tables, store):
    table = pd.read_csv(tables / "detection.csv", skiprows=1)
    points = sum(len(run.bodies["eval"]["results"]["points"]) for run in evaluations(store).values())
    assert len(table) == 2 * points
    assert set(table["class"]) == {"blue", "red"}
    text = (tables / "detection.md").read_text()
    assert "| blue |" in " ".join(text.split())


def slicebench(*words):
    return cli.exit_code([str(word) for word in words])


def test_boxes_are_drawn_on_validation_images(store, root, tmp_path, capsys):
    run = evaluations(store)["fixed_choice"]
    out, where = tmp_path / "seen.png", ("--results", store.root, "--data", root)
    assert slicebench("draw", run.run_id, *where, "--images", 3, "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    with Image.open(out) as image:
        assert image.size == (3 * 64 * draw.ENLARGED, 64 * draw.ENLARGED)
        assert (np.asarray(image.convert("RGB")) == 255).all(2).sum() > 100, "the objects that are there are white"
    assert slicebench("draw", run.run_id, *where, "--out", out, "--point", "x") == 2
    assert capsys.readouterr().err.startswith("slicebench: unknown point of ")


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("x.foo", "x.foo has no ending of an image, such as .png"),
        ("x", "x has no ending of an image, such as .png"),
        ("none/x.png", "none/x.png cannot be written: there is no folder none"),
    ],
)
def test_a_drawing_that_cannot_be_written_is_refused_before_any_work(monkeypatch, tmp_path, capsys, out, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(draw, "draw_run", lambda *_: pytest.fail("something was drawn"))
    assert slicebench("draw", "a-run", "--out", out) == 2
    assert capsys.readouterr().err == f"slicebench: {sentence}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_drawing_that_fails_to_be_written_is_one_sentence(monkeypatch, tmp_path, capsys):
    (tmp_path / "x.png").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(draw, "draw_run", lambda *_: Image.new("RGB", (4, 4)))
    assert slicebench("draw", "a-run", "--out", "x.png") == 2
    assert capsys.readouterr().err == "slicebench: x.png cannot be written (Is a directory)\n"


def test_a_model_for_another_task_is_refused_before_any_work(root):
    detector = RunSpec("uniform", "ds_mobilenet_det_micro", DataSpec("digits"))
    classifier = RunSpec("uniform", "ds_mobilenet_micro32", DATA, TRAIN)
    with pytest.raises(UserError, match="ds_mobilenet_det_micro is a model for detection, and digits"):
        check([detector], root)
    with pytest.raises(UserError, match="ds_mobilenet_micro32 is a model for classification, and voc/painted@1"):
        check([classifier], root)


def test_a_damaged_set_leaves_no_partial_record(tmp_path):
    folder = make_set(tmp_path, train=16, val=8, test=TEST_IMAGES)
    path = min((folder / "JPEGImages").iterdir())
    path.write_bytes(path.read_bytes()[:-100])
    store, spec = Store(tmp_path / "results"), specs_of()[-1]
    with pytest.raises(UserError, match="is missing or damaged"):
        run_phase(spec, "train", store.root, tmp_path)
    assert not any(store.has(spec.run_id, phase) for phase in PHASES)
    assert "damaged" in json.dumps(store.read_error(spec.run_id))


@pytest.mark.parametrize(("recipe", "runs"), [(bccd, 6), (voc_animals, 4), (voc_ds_mbnet, 4)])
def test_the_recipes_hold_valid_specs(recipe, runs):
    specs = placed(recipe([0, 1]), None)
    assert len({spec.run_id for spec in specs}) == len(specs) == 2 * runs

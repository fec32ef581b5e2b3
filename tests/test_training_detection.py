"""Detection as a task: anchors, targets, losses and scores, by hand and on painted rectangles."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou
from voc_folder import make_set

from bench.core.errors import UserError
from bench.core.spec import DataSpec
from bench.data import load
from bench.models import PRESETS
from bench.models.detector.head import OFFSETS, PER_CELL, STRIDES
from bench.models.transfer import head_of, transfer
from bench.slicing.extract import extract
from bench.tasks.detection.anchors import anchor_grid, cluster, fit_sizes, size_overlap
from bench.tasks.detection.task import NEVER, Detection, anchor_weights, solved_from
from bench.tasks.task import task_of

EDGE = 64
PLACES = PER_CELL * sum((EDGE // stride) ** 2 for stride in STRIDES)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    make_set(root, train=16, val=8, test=4)
    return load(DataSpec("voc", "painted", image_size=EDGE), root)


@pytest.fixture(scope="module")
def task(data):
    return task_of(data)


def saying(task, boxes, labels, sure=8.0):
    """The output (A, 4 + classes) of a network that sees these boxes, each at its best anchor, and nothing else."""
    output = torch.full((len(task.anchors), OFFSETS + len(task.classes)), -sure)
    output[:, :OFFSETS] = 0
    for box, label in zip(boxes, labels, strict=True):
        box = torch.tensor([box], dtype=torch.float32)
        at = int(box_iou(box, task.anchors).argmax())
        output[at, :OFFSETS] = task.coder.encode_single(box, task.anchors[at : at + 1])[0]
        output[at, OFFSETS + label] = sure
    return output


def target_of(*rows, size=4):
    table = torch.zeros(size, 6)
    table[:, 4] = -1
    for i, row in enumerate(rows):
        table[i] = torch.tensor(row, dtype=torch.float32)
    return table


BOX, OTHER = [8.0, 10.0, 30.0, 40.0], [40.0, 30.0, 60.0, 50.0]


def test_overlap_of_sizes_by_hand():
    np.testing.assert_allclose(size_overlap(np.array([[2.0, 4.0]]), np.array([[2.0, 2.0], [4.0, 4.0]])), [[0.5, 0.5]])


def test_clusters_are_where_the_boxes_are():
    generator = np.random.default_rng(0)
    middles = np.array([[10.0, 12.0], [30.0, 20.0], [50.0, 60.0]])
    sizes = np.concatenate([m + generator.uniform(-1, 1, (n, 2)) for m, n in zip(middles, (400, 20, 5), strict=True)])
    found = cluster(sizes, 3)
    np.testing.assert_allclose(found, middles, atol=1)
    assert np.array_equal(found, cluster(sizes, 3)), "no luck in it"


def test_each_level_gets_sizes_of_its_own_range():
    sizes = np.array([[20.0, 20.0]] * 9 + [[60.0, 60.0]] * 3)
    fitted = fit_sizes(sizes)
    assert [len(level) for level in fitted] == [PER_CELL] * len(STRIDES)
    np.testing.assert_allclose(fitted[0], 20)
    np.testing.assert_allclose(fitted[1], 60)
    assert (fitted[2] > 80).all(), "no box is as large as that, so a default stands there"


def test_the_grid_is_in_the_order_of_the_head():
    sizes = [np.full((PER_CELL, 2), 2.0 * stride) for stride in STRIDES]
    anchors = anchor_grid(sizes, EDGE)
    assert anchors.shape == (PLACES, 4)
    assert anchors[0].tolist() == [-7.5, -7.5, 8.5, 8.5]
    assert anchors[PER_CELL].tolist() == [0.5, -7.5, 16.5, 8.5], "along a row first"
    assert anchors[-1].tolist() == [0.5, 0.5, 64.5, 64.5]


@pytest.mark.parametrize("model", ["ds_mobilenet_det_micro", "us_mobilenet_det_micro", "ds_resnet_det_micro"])
def test_anchors_stand_where_their_cell_looks(model):
    """The mean place of the pixels that move a class of one cell of the finest level is the middle of its anchor."""
    torch.manual_seed(0)
    net = PRESETS.get(model).build(classes=1).eval()
    anchors = anchor_grid([np.full((PER_CELL, 2), 2.0 * stride) for stride in STRIDES], EDGE)
    place = PER_CELL * (4 * (EDGE // STRIDES[0]) + 4)  # far from every border
    x = torch.randn(64, 3, EDGE, EDGE, requires_grad=True)
    net(x, net.space.smallest)[:, place, OFFSETS].sum().backward()
    assert x.grad is not None
    seen, pixels = x.grad.square().sum((0, 1)), torch.arange(EDGE) + 0.5
    middle = [float(seen.sum(dim) @ pixels / seen.sum()) for dim in (0, 1)]
    assert middle == pytest.approx(anchors[place].view(2, 2).mean(0).tolist(), abs=1.5)


@pytest.mark.parametrize("model", ["ds_mobilenet_det_micro", "us_mobilenet_det_micro", "ds_resnet_det_micro"])
def test_a_detector_answers_for_every_anchor(task, model):
    net = PRESETS.get(model).build(classes=2).eval()
    with torch.no_grad():
        output = net(torch.randn(2, 3, EDGE, EDGE), net.space.smallest)
    assert PRESETS.get(model).task == "detection"
    assert output.shape == (2, len(task.anchors), OFFSETS + 2)
    assert output[..., OFFSETS:].sigmoid().mean() == pytest.approx(0.01, abs=0.005), "objects are rare before training"


def test_a_detector_starts_from_the_classifier_of_its_blocks():
    """As a supernet and as a plain network: all but the head is taken."""
    classifier, detector = (PRESETS.get(f"ds_mobilenet_{name}").build() for name in ("light_micro64", "det_micro"))
    choice = classifier.space.uniform(3)
    for source, net in ((classifier, detector), (extract(classifier, choice), extract(detector, choice))):
        found = transfer(source.state_dict(), net, head_of(net))
        assert found.stayed
        assert all("reduce" in key or "tail" in key for key in found.stayed)
        assert all(
            key in found.stayed or torch.equal(found.state[key], source.state_dict()[key]) for key in found.state
        )


def test_the_full_detector_answers_for_every_anchor_of_300_pixels():
    net = PRESETS.get("ds_mobilenet_v1_det").build()
    cost = net.cost(net.space.smallest, 300)
    assert cost.shape[0] == len(anchor_grid(fit_sizes(np.array([[30.0, 30.0]])), 300))


def test_images_that_a_grid_does_not_fit_are_refused(task):
    with pytest.raises(UserError, match=f"looks at 9 places, and images of {EDGE} pixels have {PLACES}"):
        task.soften(torch.zeros(1, 9, 6))


def test_boxes_come_back_from_their_codes(task):
    boxes = torch.tensor([BOX, OTHER])
    anchors = task.anchors[:2]
    codes = task.coder.encode_single(boxes, anchors)
    torch.testing.assert_close(task.coder.decode_single(codes, anchors), boxes)


def test_what_is_said_is_found(task):
    output = saying(task, [BOX, OTHER], [0, 1])[None]
    (found,) = task.details(output, target_of([*BOX, 0, 0], [*OTHER, 0, 0])[None])
    np.testing.assert_allclose(found.boxes, [BOX, OTHER] if found.labels[0] == 0 else [OTHER, BOX], rtol=1e-4)
    assert sorted(found.labels.tolist()) == [0, 1]
    assert (found.scores > 0.99).all()


def test_the_score_is_f1_of_each_image(task):
    output = torch.stack([saying(task, [BOX, OTHER], [0, 1])] * 3)
    targets = torch.stack([
        target_of([*BOX, 0, 0], [*OTHER, 1, 0]),
        target_of([*BOX, 0, 0]),
        target_of([*BOX, 1, 0], [*OTHER, 1, 1]),
    ])  # fmt: skip
    torch.testing.assert_close(task.score(output, targets), torch.tensor([1.0, 2 / 3, 0.0]))


def test_loss_is_small_for_the_truth_and_large_for_something_else(task):
    target = target_of([*BOX, 0, 0])[None]
    silent = saying(task, [], [])[None]
    wrong = saying(task, [OTHER], [1])[None]
    matched = task._match(target[0]) == 0
    right = silent.clone()
    boxes = torch.tensor([BOX]).expand(int(matched.sum()), -1)
    right[0, matched, :OFFSETS] = task.coder.encode_single(boxes, task.anchors[matched])
    right[0, matched, OFFSETS] = 6
    values = [float(task.loss(output, target)) for output in (right, silent, wrong)]
    assert values[0] < 0.01 < values[1] < values[2]


def test_the_anchors_of_an_object_share_its_weight():
    rows = torch.tensor([[0, 0, 0, 1, 1], [0, 2, 1, 1, 1]])
    is_object = torch.tensor([[True, True, True, True, False], [False, True, False, False, False]])
    weights = anchor_weights(rows, is_object, 3)
    torch.testing.assert_close(weights, torch.tensor([[1 / 3, 1 / 3, 1 / 3, 1, 0], [0, 1, 0, 0, 0]]))
    assert float(anchor_weights(rows, torch.zeros_like(is_object), 3).sum()) == 0


def test_the_best_anchor_stands_for_an_object_however_little_it_overlaps(task):
    tiny = target_of([1.0, 1.0, 3.0, 3.0, 0, 0])
    assert (task._match(tiny) == 0).any()


def test_difficult_objects_are_neither_taught_nor_forbidden(task):
    easy, difficult = (target_of([*BOX, 0, flag])[None] for flag in (0, 1))
    silent, speaking = (saying(task, boxes, [0] * len(boxes))[None] for boxes in ([], [BOX]))
    assert float(task.loss(silent, difficult)) == pytest.approx(float(task.loss(speaking, difficult)), abs=1e-4)
    assert float(task.loss(silent, easy)) > float(task.loss(speaking, easy)) + 0.1


def test_an_image_without_objects_has_a_loss(task):
    loss = task.loss(saying(task, [BOX], [0])[None].requires_grad_(), target_of()[None])
    assert 0 < loss.item() < math.inf


def test_distillation_is_zero_for_the_teacher_itself_and_drops_along_its_gradient(task):
    teacher = saying(task, [BOX], [0])[None]
    assert float(task.distill(teacher, task.soften(teacher))) == pytest.approx(0, abs=1e-6)
    student = saying(task, [OTHER], [1], sure=2.0)[None].requires_grad_()
    optimizer, values = torch.optim.Adam([student], lr=0.1), []
    for _ in range(200):
        optimizer.zero_grad()
        loss = task.distill(student, task.soften(teacher))
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.1 * values[0]


@pytest.mark.parametrize("sure", [0.1, 0.25])
def test_a_teacher_is_as_loud_as_it_expects_objects(task, sure):
    """By hand, for a teacher that says `sure` of every class at every anchor, and a student that says 1/2."""
    odds = float(torch.logit(torch.tensor(sure)))
    teacher, student = (torch.zeros(2, PLACES, OFFSETS + 2) for _ in range(2))
    teacher[..., OFFSETS:] = odds
    wanted = 2 * (0.5 - sure) ** 2 * np.log(2) / sure  # of an anchor, over what it adds to the expected objects
    assert float(task.distill(student, task.soften(teacher))) == pytest.approx(wanted, rel=1e-4)


def test_a_teacher_that_sees_nothing_teaches_no_boxes(task):
    teacher = task.soften(saying(task, [], [])[None])
    student = saying(task, [], [])[None]
    student[..., :OFFSETS] = 3.0
    assert float(task.distill(student, teacher)) == pytest.approx(0, abs=1e-6)


def test_soft_targets_can_be_averaged(task):
    softened = [task.soften(saying(task, [BOX], [label])[None]) for label in (0, 1)]
    mean = torch.stack(softened).mean(0)
    assert mean.shape == (1, PLACES, OFFSETS + 2)
    assert not mean.requires_grad
    assert float(mean[..., OFFSETS:].max()) == pytest.approx(0.5, abs=0.01)


def test_the_threshold_is_the_median_score_on_the_validation_split(task, data):
    says = saying(task, [BOX], [0])
    chosen = task.fitted(lambda x: says.expand(len(x), -1, -1), data.validation, torch.device("cpu"))
    scores = [task.score(says.expand(len(b.x), -1, -1), b.targets) for b in data.validation.batches(64)]
    assert chosen.threshold == pytest.approx(solved_from(torch.cat(scores), 0.5))
    assert task.threshold == 0.5, "the task itself is unchanged"


def test_a_threshold_never_makes_every_image_easy():
    assert solved_from(torch.tensor([0.0, 0.4, 0.6]), 0.5) == pytest.approx(0.4)
    assert solved_from(torch.tensor([0.0, 0.0, 0.0, 0.6, 0.3]), 0.5) == pytest.approx(0.3)
    assert solved_from(torch.zeros(3), 0.5) == 0.5


def test_the_prior_says_each_class_once_where_its_mean_box_is(task, data):
    prior = task.prior(data.train)
    said = (prior[:, OFFSETS:] > NEVER).nonzero()
    assert sorted(said[:, 1].tolist()) == [0, 1]
    rows = torch.from_numpy(data.train.targets).flatten(0, 1)
    counts = torch.tensor([(rows[:, 4] == label).sum() for label in (0, 1)])
    for place, label in said.tolist():
        assert float(prior[place, OFFSETS + label].sigmoid()) == pytest.approx(float(counts[label] / counts.sum()))
        box = task.coder.decode_single(prior[place : place + 1, :OFFSETS], task.anchors[place : place + 1])[0]
        torch.testing.assert_close(box, rows[rows[:, 4] == label, :4].mean(0), rtol=1e-4, atol=1e-3)


def test_the_frequencies_of_labels_are_a_prior_too():
    from small_runs import digits

    split = digits().train
    output = task_of(digits()).prior(split)
    labels = torch.cat([batch.targets for batch in split.batches(500)])
    assert int(output.argmax()) == int(labels.bincount().argmax())


def test_data_without_boxes_cannot_be_detected_in():
    from small_runs import digits

    with pytest.raises(UserError, match="has no boxes, so nothing can be detected"):
        task_of(replace(digits(), task="detection"))


@pytest.mark.slow
def test_a_small_detector_learns_painted_rectangles(tmp_path: Path):
    """Loss falls and most rectangles are found after two hundred steps, at the smallest width."""
    make_set(tmp_path, train=64, val=8, test=16)
    data = load(DataSpec("voc", "painted", image_size=EDGE), tmp_path)
    task, net = task_of(data), PRESETS.get("us_mobilenet_det_micro").build(classes=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for epoch in range(25):
        for batch in data.train.train_batches(8, seed=0, epoch=epoch):
            optimizer.zero_grad()
            loss = task.loss(net(batch.x, net.space.smallest), batch.targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.mean(losses[-8:]) < 0.5 * np.mean(losses[:8])
    net.eval()
    with torch.no_grad():
        batch = next(data.open_test().batches(16))
        score = task.score(net(batch.x, net.space.smallest), batch.targets).mean()
    assert isinstance(task, Detection)
    assert float(score) > 0.5

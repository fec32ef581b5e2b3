"""Accuracy is a count: exact with a ragged last batch of one, image order kept, equal whenever it is repeated."""

import numpy as np
import pytest
import torch
from small_data import InOrder
from small_runs import CPU, changed, digits, routed_point, state_of

from bench.evaluation.accuracy import BATCH, evaluate
from bench.points import OperatingPoint, Prediction
from bench.runs.estimate import FirstImages
from bench.tasks.classification import Classification, top1


class Told(OperatingPoint):
    """Answers and routes as each image says: its pixels are (class, first decision, second decision)."""

    name, kind = "told", "dynamic"

    def __init__(self):
        self.sizes = []

    def __call__(self, x):
        self.sizes.append(len(x))
        said = x[:, 0, 0].long()  # (B, 3)
        return Prediction(torch.nn.functional.one_hot(said[:, 0], 10).float(), said[:, 1:])

    def madds(self, route):
        return 100 * route[:, 0] + route[:, 1]

    def params_active(self, route):
        return 7 + route[:, 0]


def split_of(answers, decisions, targets):
    images = torch.cat([torch.tensor(answers)[:, None], torch.tensor(decisions)], dim=1).float()
    return InOrder(images[:, None, None, :], torch.tensor(targets))


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_counts_are_exact_with_a_ragged_last_batch(extra):
    n = 2 * BATCH + extra
    answers = [image % 10 for image in range(n)]
    targets = [(image + (image % 7 == 0)) % 10 for image in range(n)]  # every seventh is wrong
    targets[-1] = (answers[-1] + 5) % 10  # and the last one
    point = Told()
    found = evaluate(point, split_of(answers, [(0, 0)] * n, targets), Classification(), CPU)
    assert point.sizes == [BATCH, BATCH] + ([extra] if extra else [])
    assert top1(found.score, found.details, ()).details["correct"] == n - len({*range(0, n, 7), n - 1})
    assert found.score.shape == (n,)
    assert found.score.tolist() == [float(a == t) for a, t in zip(answers, targets, strict=True)]


def test_arrays_are_in_the_order_of_the_images():
    decisions = [(image % 3, image % 2) for image in range(BATCH + 1)]
    n = len(decisions)
    found = evaluate(Told(), split_of([0] * n, decisions, [0] * n), Classification(), CPU)
    assert found.route.tolist() == [list(pair) for pair in decisions]
    assert found.madds.tolist() == [100 * a + b for a, b in decisions]
    assert found.params.tolist() == [7 + a for a, _ in decisions]
    assert found.routing() == {"0-0": 42, "0-1": 42, "1-0": 42, "1-1": 42, "2-0": 42, "2-1": 41}
    assert (found.score.dtype, found.madds.dtype, found.route.dtype) == (np.float32, np.int64, np.int64)


def test_a_point_that_takes_no_decisions_has_no_routing():
    class Static(Told):
        def __call__(self, x):
            return Prediction(super().__call__(x).output, torch.empty(len(x), 0, dtype=torch.int64))

        def madds(self, route):
            return torch.full((len(route),), 5)

        def params_active(self, route):
            return torch.full((len(route),), 5)

    found = evaluate(Static(), split_of([1, 2], [(0, 0)] * 2, [1, 1]), Classification(), CPU)
    assert (found.score.sum(), found.routing(), found.route.shape) == (1, {}, (2, 0))


def test_an_evaluation_repeats_itself_and_changes_nothing():
    point, split = routed_point(), digits().validation
    before = state_of(point.supernet)
    torch.manual_seed(1)
    first = evaluate(point, split, Classification(), CPU)
    torch.manual_seed(2)
    second = evaluate(point, split, Classification(), CPU)
    for part in ("score", "madds", "route", "params"):
        assert np.array_equal(getattr(first, part), getattr(second, part))
    assert not changed(before, point.supernet)
    assert len(first.routing()) == 4
    assert sum(first.routing().values()) == len(split) == 150


@torch.no_grad()
def test_an_evaluation_equals_images_run_alone_by_their_own_network():
    point, split = routed_point(), FirstImages(digits().validation, 20)
    found = evaluate(point, split, Classification(), CPU)
    for row, (image, target) in enumerate(zip(split.batch.x, split.batch.targets, strict=True)):
        choice = point.supernet.space.routed(found.route[row].tolist())
        assert found.score[row] == (point.supernet(image[None], choice).argmax() == target)
        assert found.madds[row] == point.supernet.cost(choice, 8).madds + point.gates[0].madds

"""Augmented images and their boxes: they move together, by the seed, epoch and step alone."""

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.data.augment import Normalisation
from bench.data.boxes import BoxAugmentation, BoxSplit, Placing, table_of

EDGE, N = 48, 10
PLAIN = Normalisation(255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


COLOURLESS = BoxAugmentation(colour=0.0)


def bright_boxes(augmentation=COLOURLESS):
    """White rectangles on black, each in a box, and a dark image without one."""
    images = np.zeros((N, EDGE, EDGE, 3), np.uint8)
    tables = []
    for i in range(N):
        left, top, width, height = 8 + i, 20 - i, 12, 16
        images[i, top : top + height, left : left + width] = 255
        tables.append(table_of(np.array([[left, top, left + width, top + height]]), np.array([1]), np.zeros(1), 3))
    return BoxSplit("train", "white/1:train", images, np.stack(tables), PLAIN, augmentation)


def first(split, **how):
    return next(split.train_batches(N, **({"seed": 3, "epoch": 5} | how)))


def seen_box(image):
    """Left, top, right, bottom of what is bright in (C, H, W)."""
    rows, columns = (image[0] > 0.5).nonzero(as_tuple=True)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def brightest(image):
    """Where (C, H, W) is about as bright as it gets, which no change of colour moves: (H, W) bool."""
    return image[0] > image[0].max() - 0.3


def test_boxes_stay_on_their_objects():
    batch = first(bright_boxes())
    assert batch.x.is_contiguous(memory_format=torch.channels_last)
    moved = 0
    for image, target in zip(batch.x, batch.targets, strict=True):
        assert target[1:, 4].tolist() == [-1, -1]
        np.testing.assert_allclose(seen_box(image), target[0, :4], atol=1.01)
        moved += int(target[0, 0] != round(float(target[0, 0])))
    assert moved >= N - 1


def test_views_share_their_boxes_and_differ_in_colour():
    batch = first(bright_boxes(BoxAugmentation()), views=2)
    for one, other in zip(*batch.views, strict=True):
        assert not torch.equal(one, other)
        assert (brightest(one) != brightest(other)).sum() < 0.2 * brightest(one).sum()
    alone = first(bright_boxes(BoxAugmentation()), views=1)
    assert torch.equal(alone.x, batch.x)
    assert torch.equal(alone.targets, batch.targets)


def test_a_batch_depends_on_seed_epoch_and_step_alone():
    split = bright_boxes()
    steps = list(split.train_batches(3, seed=1, epoch=2))
    assert len(steps) == 3
    again = list(split.train_batches(3, seed=1, epoch=2, start=1))
    assert all(
        torch.equal(a.x, b.x) and torch.equal(a.targets, b.targets) for a, b in zip(steps[1:], again, strict=True)
    )
    others = [next(split.train_batches(3, seed=s, epoch=e)) for s, e in ((1, 3), (2, 2))]
    assert all(not torch.equal(steps[0].x, other.x) for other in others)


def test_every_image_is_drawn_once_an_epoch():
    batch = first(bright_boxes(), augment=False)
    assert sorted(batch.targets[:, 0, 0].tolist()) == [8.0 + i for i in range(N)]


def test_plain_batches_are_in_order_and_whole():
    split = bright_boxes()
    batches = list(split.batches(4))
    assert [len(b.x) for b in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([b.targets for b in batches]), torch.from_numpy(split.targets))
    assert float(batches[0].x.max()) == 1.0


def one_placing(scale=1.0, right=0.0, down=0.0, mirror=1.0):
    return Placing(*(torch.tensor([value]) for value in (scale, right, down, mirror)))


def placed(box, **how):
    table = torch.from_numpy(table_of(np.array([box]), np.array([2]), np.zeros(1), 2))[None]
    return one_placing(**how).targets(table, 100)[0]


def test_boxes_by_hand():
    assert placed([10, 20, 30, 60])[0].tolist() == [10, 20, 30, 60, 2, 0]
    assert placed([10, 20, 30, 60], mirror=-1.0)[0].tolist() == [70, 20, 90, 60, 2, 0]
    assert placed([10, 20, 30, 60], right=0.25, down=-0.5)[0].tolist() == [35, 0, 55, 10, 2, 1]  # a quarter is left
    assert placed([40, 40, 60, 60], scale=2.0)[0].tolist() == [30, 30, 70, 70, 2, 0]
    assert placed([10, 20, 30, 60], right=-0.5)[0].tolist() == [0, 0, 0, 0, -1, 0]
    assert placed([10, 20, 30, 60])[1].tolist() == [0, 0, 0, 0, -1, 0]


def test_what_cannot_be_batched_is_refused():
    split = bright_boxes()
    with pytest.raises(UserError, match="batch size 11 is larger than the 10 images"):
        split.train_batches(11, seed=0, epoch=0)
    with pytest.raises(ValueError, match="start must be between 0 and the 3 steps"):
        split.train_batches(3, seed=0, epoch=0, start=4)
    with pytest.raises(ValueError, match="views must be at least 1"):
        split.train_batches(3, seed=0, epoch=0, views=0)
    with pytest.raises(UserError, match="batch size must be at least 1"):
        split.batches(0)

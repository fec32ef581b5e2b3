"""A split in memory: its batches are pure functions of (seed, epoch, step), exact at every edge."""

import itertools

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.data.augment import Augmentation, Normalisation
from bench.data.memory import InMemorySplit

N = 65  # batches of 16 leave one image over


def make(n: int = N, augmentation: Augmentation = Augmentation(2, True)) -> InMemorySplit:  # noqa: B008
    """n different 6x6 images whose target is their index."""
    images = np.random.default_rng(0).integers(0, 256, (n, 6, 6, 3), np.uint8)
    plain = Normalisation(255.0, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    return InMemorySplit("train", "toy/official@1:train", images, np.arange(n), plain, augmentation)


@pytest.fixture(scope="module")
def split() -> InMemorySplit:
    return make()


def same(a, b) -> bool:
    views = zip(a.views, b.views, strict=True)
    return all(torch.equal(x, y) for x, y in views) and torch.equal(a.targets, b.targets)


def test_evaluation_keeps_the_ragged_last_batch_of_one(split):
    batches = list(split.batches(16))
    assert [len(batch.targets) for batch in batches] == [16, 16, 16, 16, 1]
    assert [len(batch.x) for batch in batches] == [16, 16, 16, 16, 1]
    assert torch.cat([batch.targets for batch in batches]).tolist() == list(range(N))


def test_evaluation_does_not_depend_on_the_batch_size(split):
    whole = next(split.batches(1000))
    pieces = torch.cat([batch.x for batch in split.batches(7)])
    assert torch.equal(whole.x, pieces)


def test_evaluation_yields_the_normalised_pixels():
    split = make()
    image = split.images[3].transpose(2, 0, 1) / np.float32(255)
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    x = next(split.batches(8)).x[3]
    torch.testing.assert_close(x, torch.from_numpy((image - mean) / std))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batches_are_float32_channels_last_with_int64_targets(split, batch_size):
    train = split.train_batches(batch_size, seed=0, epoch=0, views=2)
    for batch in (next(train), next(split.batches(batch_size))):
        for view in batch.views:
            assert view.shape == (batch_size, 3, 6, 6)
            assert view.dtype == torch.float32
            assert view.is_contiguous(memory_format=torch.channels_last)
        assert batch.targets.dtype == torch.int64


def test_training_drops_the_ragged_last_batch(split):
    batches = list(split.train_batches(16, seed=0, epoch=0))
    assert len(batches) == split.steps(16) == 4
    seen = torch.cat([batch.targets for batch in batches]).tolist()
    assert len(set(seen)) == len(seen) == 64


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("views", [1, 2])
def test_resuming_at_any_step_yields_the_same_batches(split, views, augment):
    options = {"seed": 3, "epoch": 5, "views": views, "augment": augment}
    whole = list(split.train_batches(16, **options))
    for start in range(5):
        rest = list(make().train_batches(16, start=start, **options))
        assert len(rest) == 4 - start
        assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_seed_and_epoch_change_the_order(split):
    firsts = [next(split.train_batches(16, seed=s, epoch=e)) for s, e in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for a, b in itertools.combinations(firsts, 2):
        assert a.targets.tolist() != b.targets.tolist()


def test_seed_and_epoch_change_the_augmentation():
    split = make(1)  # one image: nothing but its augmentation can differ
    firsts = [next(split.train_batches(1, seed=s, epoch=e)).x for s in range(10) for e in range(10)]
    assert len({x.numpy().tobytes() for x in firsts}) > 30  # of 50; 43 expected by chance


def test_every_image_sits_out_only_by_chance(split):
    missed = {(set(range(N)) - seen).pop() for seen in (targets_of(split, epoch) for epoch in range(20))}
    assert len(missed) > 10


def targets_of(split: InMemorySplit, epoch: int) -> set[int]:
    return {int(t) for batch in split.train_batches(16, seed=0, epoch=epoch) for t in batch.targets}


def test_two_views_are_independent_augmentations_of_the_same_images(split):
    pairs = list(split.train_batches(16, seed=0, epoch=0, views=2))
    singles = list(split.train_batches(16, seed=0, epoch=0))
    for pair, single in zip(pairs, singles, strict=True):
        assert torch.equal(pair.targets, single.targets)
        assert torch.equal(pair.views[0], single.x)
    equal = sum(torch.equal(a, b) for pair in pairs for a, b in zip(*pair.views, strict=True))
    assert equal <= 8  # 64 / 50 expected by chance: 25 translations, mirrored or not


def test_each_view_shows_the_image_of_its_target(split):
    """A view is one of the 50 augmentations of the image that its target names."""
    clean = {int(t): x for batch in split.batches(16) for x, t in zip(batch.x, batch.targets, strict=True)}
    black = (torch.zeros(3) - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.3, 0.4])
    batch = next(split.train_batches(16, seed=0, epoch=0, views=2))
    for view in batch.views:
        for x, target in zip(view, batch.targets, strict=True):
            padded = black.view(3, 1, 1).repeat(1, 10, 10)
            padded[:, 2:-2, 2:-2] = clean[int(target)]
            crops = [padded[:, i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
            assert any(torch.equal(x, y) for crop in crops for y in (crop, crop.flip(2)))


def test_without_augmentation_the_images_come_shuffled_but_clean(split):
    clean = torch.cat([batch.x for batch in split.batches(16)])
    batch = next(split.train_batches(16, seed=0, epoch=0, views=2, augment=False))
    assert torch.equal(batch.views[0], clean[batch.targets])
    assert torch.equal(batch.views[1], clean[batch.targets])
    assert batch.targets.tolist() == next(split.train_batches(16, seed=0, epoch=0)).targets.tolist()


def test_two_iterators_advance_in_turn(split):
    a, b = (split.train_batches(16, seed=0, epoch=0) for _ in range(2))
    assert all(same(x, y) for x, y in zip(a, b, strict=True))


def test_global_random_state_is_neither_used_nor_touched(split):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = list(split.train_batches(16, seed=0, epoch=0))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert all(same(a, b) for a, b in zip(first, split.train_batches(16, seed=0, epoch=0), strict=True))


def test_a_batch_may_be_changed_without_harm_to_the_next(split):
    for batches in (lambda: split.batches(16), lambda: split.train_batches(16, seed=0, epoch=0)):
        first = next(batches())
        kept = first.x.clone()
        first.x.zero_()
        assert torch.equal(next(batches()).x, kept)


def test_first_use_in_inference_mode_does_not_spoil_training():
    split = make()
    with torch.inference_mode():
        list(split.batches(16))
        list(split.train_batches(16, seed=0, epoch=0))
    weight = torch.zeros(N, 3 * 36, requires_grad=True)
    for batch in (next(split.batches(16)), next(split.train_batches(16, seed=0, epoch=0))):
        logits = batch.x.flatten(1) @ weight.T
        torch.nn.functional.cross_entropy(logits, batch.targets).backward()


def test_digest_tells_pixels_and_targets_apart():
    split = make(4)
    images, targets = split.images, split.targets

    def digest(images: np.ndarray, targets: np.ndarray) -> str:
        return InMemorySplit("a", "b", images, targets, split.normalisation, split.augmentation).digest

    other = images.copy()
    other[0, 0, 0, 0] ^= 1
    assert split.digest == digest(images, targets) != digest(other, targets)
    assert digest(images, targets) != digest(images, targets[::-1])
    assert digest(images, targets) != digest(images[::-1], targets)
    assert digest(images, targets) != digest(images.reshape(4, 12, 3, 3), targets)


def test_the_split_keeps_its_own_copy():
    images = np.zeros((2, 4, 4, 1), np.uint8)
    plain = Normalisation(1.0, (0.0,), (1.0,))
    split = InMemorySplit("a", "b", images, np.zeros(2), plain, Augmentation(0, False))
    images[:] = 1
    assert next(split.batches(2)).x.sum() == 0


def test_a_batch_larger_than_the_split_is_said_at_once(split):
    for call in (lambda: split.steps(66), lambda: split.train_batches(66, seed=0, epoch=0)):
        with pytest.raises(UserError) as error:
            call()
        assert str(error.value) == "batch size 66 is larger than the 65 images of toy/official@1:train"
    assert split.steps(65) == 1


def test_wrong_arguments_are_said_at_once(split):
    for call in (lambda: split.steps(0), lambda: split.batches(0)):
        with pytest.raises(UserError, match="batch size must be at least 1, not 0"):
            call()
    for start in (-1, 5):
        with pytest.raises(ValueError, match=f"between 0 and the 4 steps of the epoch, not {start}"):
            split.train_batches(16, seed=0, epoch=0, start=start)
    with pytest.raises(ValueError, match="views must be at least 1, not 0"):
        split.train_batches(16, seed=0, epoch=0, views=0)
    assert list(split.train_batches(16, seed=0, epoch=0, start=4)) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_batches_on_a_gpu_equal_those_on_the_cpu(split):
    for there, here in (
        (split.batches(16, "cuda"), split.batches(16)),
        (split.train_batches(16, seed=0, epoch=0, device="cuda"), split.train_batches(16, seed=0, epoch=0)),
    ):
        for a, b in zip(there, here, strict=True):
            assert a.x.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(a.targets.cpu(), b.targets)
            torch.testing.assert_close(a.x.cpu(), b.x)  # a GPU may multiply by 1 / 255

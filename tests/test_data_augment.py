"""Batched augmentation against the obvious per-image loop, and against torchvision on PIL images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from bench.data.augment import Augmentation, Canvas, Draws, Normalisation

CIFAR = Augmentation(shift=4, flip=True)


def pixels(n: int, size: int, channels: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, size, size, channels), np.uint8)


def one_by_one(images: np.ndarray, shift: int, draws: Draws) -> np.ndarray:
    """Each image padded with zeros, cropped, and mirrored column by column if so drawn."""
    _, h, w, _ = images.shape
    out = np.empty_like(images)
    for i, image in enumerate(images):
        padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)))
        crop = padded[draws.top[i] : draws.top[i] + h, draws.left[i] : draws.left[i] + w]
        for column in range(w):
            out[i, :, column] = crop[:, w - 1 - column if draws.flip[i] else column]
    return out


def every_draw(augmentation: Augmentation) -> Draws:
    span = range(2 * augmentation.shift + 1)
    flips = (False, True) if augmentation.flip else (False,)
    table = [(top, left, flip) for top in span for left in span for flip in flips]
    top, left, flip = (np.array(column) for column in zip(*table, strict=True))
    return Draws(top, left, flip)


@pytest.mark.parametrize(
    ("augmentation", "size", "channels"),
    [
        (CIFAR, 32, 3),
        (Augmentation(1, False), 8, 1),
        (Augmentation(2, True), 5, 2),
        (Augmentation(0, True), 4, 3),
    ],
)
def test_every_window_of_every_image_equals_the_loop(augmentation, size, channels):
    images = pixels(3, size, channels)
    canvas, draws = Canvas(torch.from_numpy(images), augmentation), every_draw(augmentation)
    for i in range(3):  # the middle image has neighbours on the canvas, the others its ends
        members = np.full(len(draws.top), i)
        batch = canvas.windows(canvas.corners(members, draws))
        assert np.array_equal(batch.numpy(), one_by_one(images[members], augmentation.shift, draws))


def test_a_mixed_batch_equals_the_loop():
    images, members = pixels(20, 32, 3), np.array([7, 0, 19, 7, 3, 11])
    draws = CIFAR.draw(len(members), "x")
    canvas = Canvas(torch.from_numpy(images), CIFAR)
    expected = one_by_one(images[members], 4, draws)
    assert np.array_equal(canvas.windows(canvas.corners(members, draws)).numpy(), expected)


def test_equal_to_torchvision_on_pil_images_bit_for_bit():
    images, mean, std = pixels(32, 32, 3), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    draws, canvas = CIFAR.draw(32, "x"), Canvas(torch.from_numpy(images), CIFAR)
    x = Normalisation(255.0, mean, std)(canvas.windows(canvas.corners(np.arange(32), draws)))
    for i, image in enumerate(images):
        picture = functional.pad(Image.fromarray(image), [4])
        picture = functional.crop(picture, draws.top[i], draws.left[i], 32, 32)
        picture = functional.hflip(picture) if draws.flip[i] else picture
        expected = functional.normalize(functional.to_tensor(picture), list(mean), list(std))
        assert torch.equal(x[i], expected)


def test_normalised_batches_are_float32_channels_last():
    x = Normalisation(255.0, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))(torch.from_numpy(pixels(4, 6, 3)))
    assert x.shape == (4, 3, 6, 6)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_normalisation_by_hand():
    image = torch.tensor([[[[0, 16], [8, 4]]]], dtype=torch.uint8)  # (1, 1, 2, 2): one row of two pixels
    x = Normalisation(16.0, (0.5, 0.25), (0.5, 0.25))(image)
    torch.testing.assert_close(x, torch.tensor([[[[-1.0, 0.0]], [[3.0, 0.0]]]]))


def test_draws_are_uniform():
    n, draws = 81_000, CIFAR.draw(81_000, "x")
    counts = np.bincount(draws.top * 9 + draws.left, minlength=81)
    assert len(counts) == 81
    assert abs(counts - 1000).max() < 5 * 1000**0.5  # five standard deviations
    assert abs(draws.flip.sum() - n / 2) < 5 * (n / 4) ** 0.5
    mirrored = np.corrcoef(draws.flip, draws.top + draws.left)[0, 1]
    assert abs(mirrored) < 5 / n**0.5


def test_draws_are_a_function_of_the_key():
    first, again, other = (CIFAR.draw(100, *key) for key in (("x", 1), ("x", 1), ("x", 2)))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_no_flip_where_none_is_asked_for():
    assert not Augmentation(1, False).draw(1000, "x").flip.any()


def test_the_canvas_takes_the_memory_it_says():
    canvas = Canvas(torch.from_numpy(pixels(10, 32, 3)), CIFAR)
    assert canvas._runs.untyped_storage().nbytes() <= 10 * 2 * 36 * 36 * 3 + 4 * 36 * 3 + 4 * 3

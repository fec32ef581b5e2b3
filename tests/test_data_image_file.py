"""One image file as RGB: as torchvision's ImageFolder gives it, and deep images without loss of their range."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import pil_loader

from bench.data.image_file import decode, eight_bits, suffixes, why_corrupt

GREY = np.random.default_rng(0).integers(0, 256, (12, 17), np.uint8)
GREY[0, :2] = 0, 255  # a picture that uses its whole range


def mode_of(path: str) -> str:
    with Image.open(path) as image:
        return image.mode


def written(folder: Path, name: str, values: np.ndarray, **how) -> str:
    path = folder / name
    Image.fromarray(values).save(path, **how)
    return str(path)


@pytest.mark.parametrize(
    ("name", "mode", "values"),
    [
        ("a.png", "I;16", GREY.astype(np.uint16) * 257),
        ("a.tif", "I;16", GREY.astype(np.uint16) * 257),
        ("a.pgm", "I", GREY.astype(np.uint16) * 257),
        ("a.tif", "I", GREY.astype(np.int32) * 257),
        ("a.tif", "I", GREY.astype(np.int32)),
        ("a.tif", "F", GREY.astype(np.float32)),
        ("a.tif", "F", GREY.astype(np.float32) / 255),
        ("a.tif", "F", GREY.astype(np.float32) * 257),
    ],
)
def test_the_same_picture_at_any_depth_is_the_same(tmp_path, name, mode, values):
    path = written(tmp_path, name, values)
    assert mode_of(path) == mode
    expected = np.asarray(decode(written(tmp_path, "eight.png", GREY)))
    assert np.array_equal(np.asarray(decode(path)), expected)
    assert np.array_equal(expected, np.repeat(GREY[..., None], 3, 2))


def test_big_endian_values_are_read_as_what_they_are(tmp_path):
    image = Image.fromarray(GREY.astype(np.uint16) * 257)
    image.save(tmp_path / "a.tif")
    header = b"MM\0*\0\0\0\x08\0\x08"  # eight tags: width, height, bits, compression, grey, offset, rows, bytes
    tags = [(256, 17), (257, 12), (258, 16), (259, 1), (262, 1), (273, 110), (278, 12), (279, 408)]
    body = b"".join(tag.to_bytes(2, "big") + b"\0\4\0\0\0\1" + value.to_bytes(4, "big") for tag, value in tags)
    (tmp_path / "b.tif").write_bytes(header + body + bytes(4) + (GREY.astype(">u2") * 257).tobytes())
    assert mode_of(str(tmp_path / "b.tif")) == "I;16B"
    assert np.array_equal(np.asarray(decode(str(tmp_path / "b.tif"))), np.asarray(decode(str(tmp_path / "a.tif"))))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([[-3.0, 1.0]], np.float32), "its values go from -3 to 1, and no range is known that holds them"),
        (np.array([[0, 70_000]], np.int32), "its values go from 0 to 70000, and no range is known that holds them"),
        (np.array([[0.0, np.nan]], np.float32), "its values go from nan to nan, and no range is known"),
    ],
)
def test_values_of_no_known_range_are_one_sentence(tmp_path, values, says):
    path = written(tmp_path, "a.tif", values)
    assert says in (why_corrupt(path) or "")


def test_values_that_were_shifted_by_eight_bits_are_one_level_off_at_most():
    assert np.abs(eight_bits(GREY.astype(np.uint16) << 8, 65535).astype(int) - GREY).max() == 1


def test_levels_between_those_of_eight_bits_are_rounded_down():
    """As an image program does that converts fractions to bytes, so that both files hold the same picture."""
    mean = np.random.default_rng(2).uniform(0, 255, (9, 9))
    deep = (mean * 257).astype(np.uint16)
    assert np.array_equal(eight_bits(deep, 65535), mean.astype(np.uint8))


def test_a_dark_deep_image_stays_dark():
    """Where the format states 16 bits, no range is guessed: the darkest 256 of 65,536 levels are black."""
    assert eight_bits(np.array([[0, 255]], np.uint16), 65535).tolist() == [[0, 0]]


def exif_rotated() -> dict:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turned
    return {"exif": exif}


@pytest.mark.parametrize(
    ("name", "mode", "how"),
    [
        ("a.jpg", "RGB", {}),
        ("a.jpg", "RGB", exif_rotated()),
        ("a.jpg", "L", {}),
        ("a.jpg", "CMYK", {}),
        ("a.png", "RGB", {}),
        ("a.png", "RGBA", {}),
        ("a.png", "LA", {}),
        ("a.png", "P", {}),
        ("a.png", "P", {"transparency": bytes(range(256))}),
        ("a.png", "1", {}),
        ("a.gif", "P", {}),
        ("a.webp", "RGB", {}),
        ("a.webp", "RGBA", {}),
        ("a.tif", "CMYK", {}),
        ("a.bmp", "RGB", {}),
    ],
)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_every_mode_is_as_torchvision_loads_it(tmp_path, name, mode, how):
    pixels = np.random.default_rng(1).integers(0, 256, (12, 17, 4), np.uint8)
    path = tmp_path / name
    Image.fromarray(pixels).convert("RGB" if mode in ("P", "CMYK") else "RGBA").convert(mode).save(path, **how)
    ours = decode(str(path))
    assert ours.size == (17, 12), "an EXIF rotation is not applied"
    assert np.array_equal(np.asarray(ours), np.asarray(pil_loader(str(path))))


def test_formats_that_run_other_programs_are_no_images():
    assert {".tif", ".jpg", ".png", ".webp", ".gif", ".bmp", ".ppm", ".avif"} <= suffixes()
    assert not {".eps", ".ps", ".pdf", ".wmf", ".h5", ".txt"} & suffixes()

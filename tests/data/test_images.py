"""Files of every kind of pixels come out as the colours that they show."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from jaxpure.data import DataError
from jaxpure.data.images import decode

COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[10, 20, 30], [200, 200, 200]]], np.uint8)
GREYS = np.array([[0, 1], [128, 255]], np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


def with_alpha(pixels):
    return np.concatenate([pixels, np.full((2, 2, 1), 77, np.uint8)], axis=2)


def palette():
    image = Image.new("P", (2, 2))
    image.putpalette(COLOURS.reshape(-1).tolist())
    image.putdata([0, 1, 2, 3])
    return image


@pytest.mark.parametrize(
    "file",
    [
        encoded(Image.fromarray(COLOURS)),
        encoded(palette()),
        encoded(palette(), transparency=bytes([0, 77, 255, 255])),
        encoded(palette(), transparency=1),
        encoded(Image.fromarray(with_alpha(COLOURS))),
        encoded(Image.fromarray(COLOURS), "BMP"),
        encoded(palette(), "BMP"),
        encoded(Image.fromarray(COLOURS), "WEBP", lossless=True),
    ],
    ids=["rgb", "palette", "alphas", "transparent", "rgba", "bmp", "palette-bmp", "webp"],
)
def test_colours_are_what_they_show(file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode("x", file), COLOURS)


def test_grey_has_one_channel():
    got = decode("x", encoded(Image.fromarray(GREYS)))
    np.testing.assert_array_equal(got, GREYS[..., None])


def test_black_and_white_are_0_and_255():
    got = decode("x", encoded(Image.fromarray(np.array([[True, False]]))))
    assert got.dtype == np.uint8 and got[..., 0].tolist() == [[255, 0]]


def test_grey_of_16_bits_is_scaled():
    values = np.array([[0, 257, 128 * 257, 65535, 255, 300, 65280]], np.uint16)
    file = encoded(Image.fromarray(values))
    assert decode("x", file)[..., 0].tolist() == [[0, 1, 128, 255, 1, 1, 254]]
    file.seek(0)
    resized = decode("x", file, image_size=1)
    assert resized.shape == (1, 1, 3)


def test_grey_with_transparency_is_colour():
    image = Image.fromarray(np.stack([GREYS, GREYS[::-1]], axis=-1), "LA")
    got = decode("x", encoded(image))
    np.testing.assert_array_equal(got, np.repeat(GREYS[..., None], 3, axis=2))


def test_inks_are_colours():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    got = decode("x", encoded(red, "JPEG", quality=95))
    np.testing.assert_allclose(got, np.broadcast_to([255, 0, 0], (16, 16, 3)), atol=8)


def test_resizing_and_cropping_keep_the_middle():
    random = np.random.default_rng(0)
    wide = random.integers(0, 256, (32, 56, 3), dtype=np.uint8)  # only cropped
    got = decode("x", encoded(Image.fromarray(wide)), image_size=28)
    np.testing.assert_array_equal(got, wide[2:30, 14:42])
    square = random.integers(0, 256, (32, 32), dtype=np.uint8)
    got = decode("x", encoded(Image.fromarray(square)), image_size=28)
    np.testing.assert_array_equal(got, np.repeat(square[2:30, 2:30, None], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_files_cut_or_altered_are_read_or_refused_in_one_line(kind):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    content = encoded(image, kind).getvalue()
    refused = 0
    for _ in range(60):
        changed = bytearray(content[: random.integers(1, len(content) + 1)])
        for place in random.integers(0, len(changed), 3):
            changed[place] = random.integers(0, 256)
        try:
            decode("the file", io.BytesIO(bytes(changed)))
        except DataError as error:
            assert str(error).startswith("the file cannot be read as an image")
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(content):
    with pytest.raises(DataError, match="x cannot be read as an image"):
        decode("x", io.BytesIO(content))

"""Image files as arrays of one shape."""

import io
import os
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image

from jaxpure.data.dataset import DataError

File = str | os.PathLike[str] | io.BytesIO

# What Pillow's decoders raise for a file that is cut short, altered, or no image.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, EOFError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


def decode_all(
    name: str, files: Iterable[tuple[str, File]], image_size: int | None
) -> np.ndarray:
    """Images `(n, H, W, C)` uint8 of encoded files.

    Args:
      name: of the data set, for messages.
      files: `(what it is called, the file)` of each image; at least one.
      image_size: see `decode`.

    Raises:
      DataError: a file cannot be read, or the images differ in size.
    """
    images: list[np.ndarray] = []
    first = ""
    for what, file in files:
        image = decode(what, file, image_size)
        if not images:
            first = what
        elif image.shape != images[0].shape:
            raise DataError(
                f"images of {name} differ in size ({first} is {images[0].shape}, {what} is "
                f"{image.shape}); set image_size to bring all to one, in colour"
            )
        images.append(image)
    return np.stack(images)


def decode(what: str, file: File, image_size: int | None = None) -> np.ndarray:
    """One image `(H, W, C)` uint8: of one channel where the file is grey, else RGB.

    Palettes become their colours and transparency is left out. Grey of 16 bits is scaled
    to 8; of colours of 16 bits the upper 8 are read.

    Args:
      what: the file as messages call it.
      file: path or content.
      image_size: resizes the image (bilinear, antialiased) so that its shorter side is
        8/7 of this, and crops the middle: 256 and 224, as evaluations on ImageNet do;
        grey becomes RGB. None leaves the image as it is.

    Raises:
      DataError: the file cannot be read.
    """
    try:
        with Image.open(file) as image:
            image = _grey_or_rgb(image)
    except UNREADABLE as error:
        raise DataError(f"{what} cannot be read as an image: {error}") from error
    if image_size is not None:
        image = _resize_and_crop(image.convert("RGB"), image_size)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def check_size(image_size: int | None) -> None:
    """Raises DataError for a size that images cannot be brought to."""
    if image_size is not None and image_size < 1:
        raise DataError(f"{image_size=}, expected at least 1 pixel")


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    """In mode L or RGB."""
    if image.mode in ("L", "1"):
        return image.convert("L")
    if image.mode.startswith("I"):  # "I;16", or "I" of a 16 bit file
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values of {values.min()} to {values.max()} in 16 bits")
        # 65535 becomes 255. Pillow's own conversion would cut values above 255 off.
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floats of an unknown range")
    if image.mode in ("P", "PA"):  # Pillow warns of a palette with transparent colours
        image = image.convert("RGBA")
    return image.convert("RGB")


def _resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    shorter = round(size * 8 / 7)
    width, height = image.size
    scale = shorter / min(width, height)
    # The longer side is cut to whole pixels, as torchvision does.
    width, height = max(int(width * scale), shorter), max(int(height * scale), shorter)
    image = image.resize((width, height), resample=Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))

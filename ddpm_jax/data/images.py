"""From the bytes of a PNG or JPEG to uint8 [H, W, C] of the size and channels asked for."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin

from ddpm_jax.runtime import files

# What an image may be at most, in the file and decoded; larger ones are broken. Both are known
# before anything is decoded. Pillow's own limit is a global that any library may change.
MAX_BYTES = 2**28
MAX_PIXELS = 2**27
# Each scan of a progressive JPEG costs a pass over all of its pixels, whatever its length: a file
# within both limits could take hours. Cameras and encoders write about ten.
MAX_SCANS = 1000

# EXIF orientation -> what brings the image upright (EXIF 2.3, tag 274); 1 is upright already.
_ORIENTATION_TAG = 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_JPEG, _SCAN = b"\xff\xd8\xff", b"\xff\xda"
_MODES = {1: ("L", "1"), 3: ("RGB",)}


class BrokenImage(Exception):
    """An image that cannot be read; the message is one line."""


def read_image(file: Path | bytes, image_size: tuple[int, int] | None, channels: int) -> np.ndarray:
    """Decodes a PNG or JPEG file, or the bytes of one.

    EXIF orientation is applied, transparency is composited on white, 16-bit grey keeps its high
    byte, palettes and CMYK become RGB, and grey is ITU-R 601 luma. See `fit` for the size.

    Args:
      file: where the image lies, or its encoded bytes.
      image_size: (H, W); None for the image's own.
      channels: 1 (grey) or 3 (RGB).

    Returns:
      uint8 [H, W, channels].

    Raises:
      BrokenImage: unreadable, truncated, no regular file, neither PNG nor JPEG, or more than
        `MAX_BYTES` or `MAX_PIXELS`.
    """
    with _one_line(), io.BytesIO(_content(file)) as stream:
        image = _open(stream)
        image.load()
        return pixels(_upright(image), image_size, channels)


def read_exact(file: Path, channels: int) -> np.ndarray:
    """Decodes a PNG or JPEG file that has these channels itself; nothing is converted.

    Args:
      file: where the image lies.
      channels: 1 (grey, or black and white) or 3 (RGB).

    Returns:
      uint8 [H, W, channels].

    Raises:
      BrokenImage: an image of another mode, or as `read_image`.
    """
    with _one_line():
        content = _content(file)
        mode = _open(io.BytesIO(content)).mode
    if mode not in _MODES[channels]:
        raise BrokenImage(f"its mode is {mode}, and this needs {' or '.join(_MODES[channels])}")
    return read_image(content, None, channels)


def pixels(image: Image.Image, image_size: tuple[int, int] | None, channels: int) -> np.ndarray:
    """Returns a PIL image as uint8 [H, W, channels]; `read_image` says how modes are converted."""
    converted = _with_channels(image, channels)
    array = np.asarray(converted if image_size is None else fit(converted, image_size))
    return array.reshape(*array.shape[:2], channels)


def fit(image: Image.Image, image_size: tuple[int, int]) -> Image.Image:
    """Scales until the image covers (H, W), antialiased bicubic, and cuts out the centre.

    An image that has this size already is returned as it is.
    """
    height, width = image_size
    if image.size == (width, height):
        return image
    # Cutting in source coordinates: scaling first would let a 1 x 10,000 strip take gigabytes.
    scale = max(width / image.width, height / image.height)
    left = max(0.0, (image.width - width / scale) / 2)
    top = max(0.0, (image.height - height / scale) / 2)
    box = (left, top, image.width - left, image.height - top)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Whatever is raised inside becomes a BrokenImage of one line."""
    try:
        yield
    except BrokenImage:
        raise
    except Exception as error:  # a decoder that is fed with arbitrary bytes raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenImage(reason) from error


def _content(file: Path | bytes) -> bytes:
    """The encoded bytes, at most `MAX_BYTES`."""
    content = file if isinstance(file, bytes) else files.read_bytes(file, MAX_BYTES)
    if len(content) > MAX_BYTES:
        raise BrokenImage(f"it has more than the limit of {MAX_BYTES:,} bytes")
    if content.startswith(_JPEG) and content.count(_SCAN) > MAX_SCANS:
        raise BrokenImage(f"it has more than the limit of {MAX_SCANS} scans")
    return content


def _open(stream: BinaryIO) -> Image.Image:
    # The two decoders by name rather than Image.open: no other format is ever tried, and an
    # image over the pixel limit is refused where Image.open would only warn.
    magic = stream.read(4)
    stream.seek(0)
    image: Image.Image
    if not magic:
        raise BrokenImage("the file is empty")
    if magic == b"\x89PNG":
        image = PngImagePlugin.PngImageFile(stream)
    elif magic[:3] == _JPEG:
        image = JpegImagePlugin.JpegImageFile(stream)
    else:
        raise BrokenImage("the content is neither PNG nor JPEG; save it as a PNG file")
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise BrokenImage(f"{size} is over the limit of {MAX_PIXELS} pixels")
    return image


def _upright(image: Image.Image) -> Image.Image:
    orientation = None
    with contextlib.suppress(Exception):  # damaged EXIF data does not make an image unreadable
        orientation = image.getexif().get(_ORIENTATION_TAG)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which PIL's own conversion to L would clip
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")

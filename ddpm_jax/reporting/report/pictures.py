"""Pictures inside of the page: read within bounds, as small as they must be, as data URLs."""

import base64
import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_jax.data import images
from ddpm_jax.reporting.report.html import Html, tag
from ddpm_jax.runtime import files

LEAST_BYTES = 20_000
MAX_WIDTH = 1600  # nobody's screen shows more
SHARP = 800  # a picture up to so many pixels wide is shown enlarged, pixels as squares
# Of a file in a workdir: decoded, it takes some ten bytes a pixel for a moment.
MAX_BYTES = 2**26
MAX_PIXELS = 2**24


def encode(pixels: np.ndarray, most: int) -> tuple[str, int, int]:
    """A picture as a data URL.

    Args:
      pixels: uint8 [H, W, C]; C 1, 3, or 4 with opacity.
      most: bytes of the file that it becomes, at least `LEAST_BYTES`: PNG where that is small
        enough, JPEG else, made smaller until it fits.

    Returns:
      (URL, width, height).
    """
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((MAX_WIDTH, 2 * MAX_WIDTH))
    content, kind = _saved(image, "PNG", optimize=image.width * image.height < 10**5), "png"
    most = max(most, LEAST_BYTES)
    while len(content) > most:
        if kind == "jpeg":
            share = max(0.5, 0.9 * (most / len(content)) ** 0.5)
            size = max(1, round(image.width * share)), max(1, round(image.height * share))
            image = image.resize(size, Image.Resampling.LANCZOS)
        elif image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
        content, kind = _saved(image, "JPEG", quality=85), "jpeg"
    text = base64.b64encode(content).decode("ascii")
    return f"data:image/{kind};base64,{text}", image.width, image.height


def read(path: Path) -> np.ndarray:
    """A PNG or JPEG file of a workdir, uint8 [H, W, 1 or 3].

    Raises:
      images.BrokenImage: if it is none, or larger than a page should hold.
    """
    try:
        content = files.read_bytes(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise images.BrokenImage(getattr(error, "strerror", None) or str(error)) from error
    width, height = struct.unpack(">II", content[16:24].ljust(8, b"\0"))
    if content.startswith(b"\x89PNG") and width * height > MAX_PIXELS:
        raise images.BrokenImage(f"{width} x {height} is over the limit of {MAX_PIXELS:,} pixels")
    pixels = images.read_image(content, None, 3, max_pixels=MAX_PIXELS)
    grey = (pixels[..., :1] == pixels).all()
    return pixels[..., :1] if grey else pixels


def picture(pixels: np.ndarray, alt: str, most: int) -> Html:
    """An <img> of uint8 [H, W, C] pixels, in at most so many bytes, which says `alt` in words."""
    url, width, height = encode(pixels, most)
    sharp = "sharp" if width <= SHARP and url.startswith("data:image/png") else None
    return tag("img", src=url, alt=alt, width=width, height=height, class_=sharp)


def _saved(image: Image.Image, kind: str, **options: int | bool) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()

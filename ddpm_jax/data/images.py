"""From the bytes of a PNG, JPEG or WebP to uint8 [H, W, C] of the size and channels asked for."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from ddpm_jax.data.colour import to_srgb
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

_PNG, _JPEG, _SCAN = b"\x89PNG", b"\xff\xd8\xff", b"\xff\xda"
_GREY = {1: 255, 2: 85, 4: 17, 8: 1}  # bits of a grey PNG's pixel -> what Pillow multiplies it by
_MODES = {1: ("L", "1"), 3: ("RGB",)}


class BrokenImage(Exception):
    """An image that cannot be read; the message is one line."""


def read_image(
    file: Path | bytes,
    image_size: tuple[int, int] | None,
    channels: int,
    *,
    max_pixels: int | None = None,
) -> np.ndarray:
    """Decodes a PNG, JPEG or WebP file, or the bytes of one.

    EXIF orientation is applied, an ICC profile is followed to sRGB (`colour.to_srgb`; the gAMA and
    cHRM of a PNG without one are not), transparency is composited on white, 16 bits keep the high
    byte, palettes and CMYK become RGB, and grey is ITU-R 601 luma. Of several frames the first is
    read. See `fit` for the size.

    Args:
      file: where the image lies, or its encoded bytes.
      image_size: (H, W); None for the image's own.
      channels: 1 (grey) or 3 (RGB).
      max_pixels: more are refused before anything is decoded; None for `MAX_PIXELS`.

    Returns:
      uint8 [H, W, channels].

    Raises:
      BrokenImage: unreadable, truncated, no regular file, another format, or more than
        `MAX_BYTES` or `max_pixels`.
    """
    with _one_line():
        content = _content(file)
        image = _open(content, max_pixels)
        decoded = _without_key(image, content)
        return pixels(_turned(decoded, _orientation(image)), image_size, channels)


def read_exact(file: Path, channels: int) -> np.ndarray:
    """Decodes a file that has these channels itself: as `read_image`, of no other mode.

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
        mode = _open(content).mode
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
        said = getattr(error, "strerror", None) or str(error)
        raise BrokenImage(" ".join(said.split()) or type(error).__name__) from error


def _content(file: Path | bytes) -> bytes:
    """The encoded bytes, at most `MAX_BYTES`."""
    content = file if isinstance(file, bytes) else files.read_bytes(file, MAX_BYTES)
    if len(content) > MAX_BYTES:
        raise BrokenImage(f"it has more than the limit of {MAX_BYTES:,} bytes")
    if content.startswith(_JPEG) and content.count(_SCAN) > MAX_SCANS:
        raise BrokenImage(f"it has more than the limit of {MAX_SCANS} scans")
    return content


def _open(content: bytes, max_pixels: int | None = None) -> ImageFile.ImageFile:
    # The decoders by name rather than Image.open: no other format is ever tried, and an image
    # over the pixel limit is refused where Image.open would only warn.
    stream = io.BytesIO(content)
    image: ImageFile.ImageFile
    if not content:
        raise BrokenImage("the file is empty")
    if content.startswith(_PNG):
        image = PngImagePlugin.PngImageFile(stream)
    elif content.startswith(_JPEG):
        image = JpegImagePlugin.JpegImageFile(stream)
    elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        if not WebPImagePlugin.SUPPORTED:
            raise BrokenImage("this Pillow was built without WebP; save it as a PNG file")
        # Its decoder takes memory for the whole canvas when it is made.
        _check_pixels(_webp_size(content), max_pixels)
        image = WebPImagePlugin.WebPImageFile(stream)
    else:
        raise BrokenImage("the content is neither PNG nor JPEG nor WebP; save it as a PNG file")
    _check_pixels(image.size, max_pixels)
    return image


def _check_pixels(size: tuple[int, int], max_pixels: int | None) -> None:
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if size[0] * size[1] > limit:
        raise BrokenImage(f"{size[0]} x {size[1]} is over the limit of {limit} pixels")


def _webp_size(content: bytes) -> tuple[int, int]:
    """(width, height) as the header of a WebP file says (RFC 9649, sections 2.5 to 2.7)."""
    kind = content[12:16]
    if kind == b"VP8X" and len(content) >= 30:
        return _little(content[24:27]) + 1, _little(content[27:30]) + 1
    if kind == b"VP8L" and len(content) >= 25 and content[20] == 0x2F:
        bits = _little(content[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(content) >= 30 and content[23:26] == b"\x9d\x01\x2a":
        return _little(content[26:28]) & 0x3FFF, _little(content[28:30]) & 0x3FFF
    raise BrokenImage("its WebP header is damaged")


def _little(content: bytes) -> int:
    return int.from_bytes(content, "little")


def _without_key(image: ImageFile.ImageFile, content: bytes) -> Image.Image:
    """Decodes the image; the one transparent value of a PNG without a palette becomes alpha.

    The key (tRNS) has the bits of the file's pixels, and Pillow compares it with what it made of
    them: the eight high bits, or all 255 for the largest of fewer.
    """
    tiles = list(image.tile)  # which are gone after decoding
    image.load()
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None or image.mode == "P":
        return image
    raw = str(tiles[0][3])
    values = np.asarray(image)
    if image.mode == "1":
        opaque = values != (key > 0)
    elif image.mode == "L":
        bits = int(raw.partition(";")[2] or 8)
        opaque = values != (key & 2**bits - 1) * _GREY[bits]
    elif image.mode.startswith("I"):
        opaque = values != key
    else:
        if raw == "RGB;16B":  # Pillow keeps the high bytes; read as little-endian, the low ones
            low = PngImagePlugin.PngImageFile(io.BytesIO(content))
            low.tile = [(*tile[:3], "RGB;16L") for tile in tiles]  # type: ignore[misc]
            low.load()
            values = values.astype(np.uint16) << 8 | np.asarray(low)
        else:
            key = [part & 255 for part in key]
        opaque = (values != np.array(key)).any(axis=-1)
    keyed = _eight_bit(image)
    keyed = keyed.copy() if keyed.mode in ("L", "RGB") else keyed.convert("L")
    keyed.info = {name: value for name, value in image.info.items() if name != "transparency"}
    keyed.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return keyed


def _orientation(image: Image.Image) -> int | None:
    with contextlib.suppress(Exception):  # damaged EXIF data does not make an image unreadable
        return image.getexif().get(_ORIENTATION_TAG)
    return None


def _turned(image: Image.Image, orientation: int | None) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey, which PIL's own conversion to L would clip, by its high bytes."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    profile = image.info.get("icc_profile")
    image = _eight_bit(image)
    if image.mode == "P" and (profile or image.has_transparency_data):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if profile:
        image = to_srgb(image, profile)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")

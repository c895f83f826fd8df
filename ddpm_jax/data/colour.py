"""Colours as sRGB: an embedded ICC profile is followed, by LittleCMS through Pillow."""

import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE = 2**22  # bytes; printers' profiles have half a megabyte
# Pixel values by which a profile may differ from sRGB and still count as it: the many profiles
# that call themselves sRGB do, and pixels that need no conversion are left as they are.
TOLERANCE = 2
# The colour space that a profile names -> the mode of the images that it describes.
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# Of input devices, displays, printers and colour spaces; the others describe no image.
_CLASSES = ("scnr", "mntr", "prtr", "spac")


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An image in sRGB, of what its ICC profile says its numbers mean.

    Relative colorimetric, with black point compensation: neutral stays neutral, and colours
    outside of sRGB's gamut are clipped to it. Alpha is kept. A profile that cannot be read, is
    over MAX_PROFILE, or describes images of another kind is ignored, as browsers do, and so is one
    that is sRGB to within TOLERANCE.

    Args:
      image: of mode L, LA, RGB, RGBA or CMYK, or another, which is returned as it is.
      profile: the embedded bytes.

    Returns:
      The same image, or a new one of mode L, LA, RGB or RGBA.
    """
    mode = image.mode.removesuffix("A")
    if mode not in _MODES.values() or len(profile) > MAX_PROFILE:
        return image
    convert = _conversion(profile, mode)
    if convert is None:
        return image
    converted = convert(image if image.mode == mode else image.convert(mode))
    converted.info.pop("icc_profile", None)
    if image.mode != mode:
        converted.putalpha(image.getchannel("A"))
    return converted


@functools.lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """From images of a mode to sRGB; None where nothing is to be converted."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        described = _MODES.get(source.profile.xcolor_space)
        if described != mode or source.profile.device_class not in _CLASSES:
            return None
        # LittleCMS puts greys on a grid of few points, which loses the dark ones: a table of all.
        exact = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        transform = ImageCms.ImageCmsTransform(
            source,
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            # Threads share a transform, and its cache of one pixel would be theirs too.
            flags=ImageCms.Flags.NOCACHE | ImageCms.Flags.BLACKPOINTCOMPENSATION | exact,
        )
        if _changes_nothing(transform, mode):
            return None
        if mode == "L":
            ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
            table = np.asarray(transform.apply(ramp))[0, :, 0].tolist()
            return lambda image: image.point(table)
        return transform.apply
    except Exception:  # a profile is arbitrary bytes, and Pillow may be built without LittleCMS
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether all greys and a lattice of colours stay within TOLERANCE."""
    if mode == "CMYK":
        return False
    values = np.arange(256)[:, None].repeat(3, axis=1)
    if mode == "RGB":
        lattice = np.stack(np.meshgrid(*[np.arange(0, 256, 17)] * 3), axis=-1).reshape(-1, 3)
        values = np.concatenate([values, lattice])
    probe = Image.fromarray(values[None].astype(np.uint8)).convert(mode)
    return bool(np.abs(np.asarray(transform.apply(probe), int)[0] - values).max() <= TOLERANCE)

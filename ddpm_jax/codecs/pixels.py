"""The codec of a diffusion on the pixels themselves, scaled to [-1, 1]."""

from typing import Any

import numpy as np

from ddpm_jax.codecs.base import Codec


def pixels(shape: tuple[int, int, int]) -> Codec:
    """The pixels themselves, [-1, 1] for 0 to 255; shape is (H, W, C)."""
    return Codec(from_uint8, to_uint8, shape)


def from_uint8(images: np.ndarray) -> np.ndarray:
    """0..255 to [-1, 1], float32; the ends are exactly -1 and 1."""
    return (images / 127.5 - 1).astype(np.float32)


def to_uint8(x: Any) -> np.ndarray:
    """[-1, 1] to 0..255, rounded; what lies outside is clipped."""
    return np.round((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)

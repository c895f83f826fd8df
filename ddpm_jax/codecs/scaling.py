"""Between stored pixels and floats: the one place that knows how 8 bits are scaled."""

import functools
from typing import Any

import numpy as np


def from_uint8(images: np.ndarray, num_values: int = 256) -> np.ndarray:
    """0..num_values - 1 to [-1, 1], float32, symmetric about 0; the ends are exactly -1 and 1."""
    return _table(num_values)[images]


def to_uint8(x: Any) -> np.ndarray:
    """[-1, 1] to 0..255, rounded; what lies outside is clipped."""
    return np.round((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)


def to_float(image: np.ndarray) -> np.ndarray:
    """An image that is no x_0, such as a condition or a mask, as a network is shown it: float32.

    A bool one becomes 0 and 1, an 8-bit one [-1, 1]; floats stay as they are.
    """
    return from_uint8(image) if image.dtype == np.uint8 else image.astype(np.float32)


@functools.cache
def _table(num_values: int) -> np.ndarray:
    """The value of each pixel value: x * 2 / (num_values - 1) - 1.

    Its ends are exact, which float32 arithmetic on the pixels does not promise.
    """
    return (np.arange(1 - num_values, num_values, 2) / (num_values - 1)).astype(np.float32)

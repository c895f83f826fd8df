"""The codec of a model of pixel values as whole numbers, one token each."""

import functools

import numpy as np

from ddpm_jax.codecs.base import Codec


def quantised(shape: tuple[int, int, int], num_values: int) -> Codec:
    """Pixels of `num_values` values, 0 to num_values - 1, int32 [..., H, W, C].

    Pixels of as many values keep them. Of another number, such as the 256 of a sample that was
    saved, they get the nearest of as many equal steps.

    Args:
      shape: (H, W, C).
      num_values: at least 2.

    Raises:
      ValueError: for fewer values, or more than 8 bits hold.
    """
    if not 2 <= num_values <= 256:
        raise ValueError(f"need 2 to 256 values of a pixel, got {num_values}")
    encode = functools.partial(_rescaled, to=num_values)
    return Codec(encode, functools.partial(_decoded, num_values=num_values), shape, np.int32)


def _decoded(x: np.ndarray, num_values: int) -> np.ndarray:
    return _rescaled(np.clip(x, 0, num_values - 1), num_values, to=256).astype(np.uint8)


def _rescaled(pixels: np.ndarray, num_values: int = 256, *, to: int) -> np.ndarray:
    """Values 0 to num_values - 1 as the nearest of 0 to `to` - 1."""
    values = np.round(np.arange(num_values) * ((to - 1) / (num_values - 1)))
    return values.astype(np.int32)[pixels]

"""The codec of a diffusion on the pixels themselves, scaled to [-1, 1]."""

from ddpm_jax.codecs.base import Codec
from ddpm_jax.codecs.scaling import from_uint8, to_uint8


def pixels(shape: tuple[int, int, int]) -> Codec:
    """The pixels themselves, [-1, 1] for 0 to num_values - 1; shape is (H, W, C)."""
    return Codec(from_uint8, to_uint8, shape)

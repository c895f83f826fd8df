"""The codec of a diffusion on an autoencoder's latents."""

from collections.abc import Callable

import numpy as np

from ddpm_jax.codecs.base import Codec


def latents(
    pixels: Codec,
    encode: Callable[[np.ndarray], np.ndarray],
    decode: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, ...],
) -> Codec:
    """Latents of images, without chance, and images of latents.

    Args:
      pixels: between 8-bit images and what the autoencoder sees.
      encode: floats [N, H, W, C] -> latents [N, *shape].
      decode: the way back.
      shape: (h, w, C) of the latents of one image.
    """

    def encoded(images: np.ndarray, num_values: int = 256) -> np.ndarray:
        return _by_rows(encode, pixels.encode(images, num_values))

    def decoded(x: np.ndarray) -> np.ndarray:
        return pixels.decode(_by_rows(decode, np.asarray(x, np.float32)))

    return Codec(encoded, decoded, shape, mask=lambda mask: _any_below(mask, shape))


def _by_rows(make: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """What is made of [N, h, w, C], of any number of axes in the place of N."""
    rows = make(x.reshape(-1, *x.shape[-3:]))
    return rows.reshape(*x.shape[:-3], *rows.shape[1:])


def _any_below(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask of latents, 1 where any of the pixels below is masked: [H, W, 1] -> [h, w, 1]."""
    height, width = (-(-mask.shape[axis] // shape[axis]) for axis in (0, 1))
    padded = np.zeros((height * shape[0], width * shape[1], mask.shape[2]), mask.dtype)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    cells = padded.reshape(shape[0], height, shape[1], width, mask.shape[2])
    return cells.max(axis=(1, 3))

"""Resizing as other programs do it, so that figures agree with theirs.

FID changes by several points with the resize (Parmar et al. 2022, "On Aliased Resizing and
Surprising Subtleties in GAN Evaluation"), so each is a choice with a name.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# How a row of the result is made of rows of the image.
RESIZES = ("bicubic", "bilinear", "bilinear_torch", "bilinear_tensorflow")


def resize(
    images: jax.Array, size: tuple[int, int], name: str, *, rounding: bool = False
) -> jax.Array:
    """Images of another size, clipped to [0, 255]. [B, H, W, C] -> float32 [B, *size, C].

    Args:
      images: in [0, 255].
      size: (height, width).
      name: one of RESIZES, as for `weights`; "none" for images that have the size.
      rounding: to whole numbers, as in an 8-bit image.

    Raises:
      ValueError: for an unknown name, or "none" and another size.
    """
    x = images.astype(jnp.float32)
    if name == "none":
        if images.shape[1:3] != tuple(size):
            raise ValueError(
                f"images are {images.shape[1]}x{images.shape[2]} and resize=none needs "
                f"{size[0]}x{size[1]}: choose one of {', '.join(RESIZES)}"
            )
    else:
        rows, columns = (
            jnp.asarray(weights(name, inputs, outputs), jnp.float32)
            for inputs, outputs in zip(images.shape[1:3], size, strict=True)
        )
        highest = jax.lax.Precision.HIGHEST
        x = jnp.einsum("pw,bhwc->bhpc", columns, x, precision=highest)
        x = jnp.einsum("oh,bhpc->bopc", rows, x, precision=highest)
    # Cubic weights are negative in part, so edges overshoot.
    x = jnp.clip(x, 0, 255)
    return jnp.rint(x) if rounding else x


def weights(name: str, inputs: int, outputs: int) -> np.ndarray:
    """The share of each input pixel in each output pixel along one axis.

    "bicubic" and "bilinear" are Pillow's, antialiased: a wider filter where images shrink.
    "bilinear_torch" is `torch.nn.functional.interpolate(align_corners=False)`, and
    "bilinear_tensorflow" is TensorFlow 1's, whose first pixels coincide instead of the images'
    edges; both take two pixels of the image, however much it shrinks.

    Args:
      name: one of RESIZES.
      inputs, outputs: numbers of pixels, at least 1.

    Returns:
      float64 [outputs, inputs], rows that sum to 1.

    Raises:
      ValueError: for an unknown name.
    """
    if name not in RESIZES:
        raise ValueError(f"resize={name!r} is unknown: choose one of none, {', '.join(RESIZES)}")
    scale, places = inputs / outputs, np.arange(outputs, dtype=np.float64)
    if name == "bicubic":
        return _filtered(_cubic, 2.0, inputs, (places + 0.5) * scale, scale)
    if name == "bilinear":
        return _filtered(_triangle, 1.0, inputs, (places + 0.5) * scale, scale)
    # Both place the pixels in float32, torch rounding once (a fused multiply-add), which moves
    # values by up to 4e-4 of 255.
    narrow = np.float64(np.float32(inputs) / np.float32(outputs))
    shift = 0.5 if name == "bilinear_torch" else 0.0
    places = np.maximum((places + shift) * narrow - shift, 0).astype(np.float32)
    left = np.minimum(places.astype(int), inputs - 1)
    right = np.minimum(left + 1, inputs - 1)
    matrix = np.zeros((outputs, inputs))
    np.add.at(matrix, (np.arange(outputs), left), 1 - (places - left))
    np.add.at(matrix, (np.arange(outputs), right), places - left)
    return matrix


def _filtered(
    kernel: Callable[[np.ndarray], np.ndarray],
    support: float,
    inputs: int,
    centres: np.ndarray,
    scale: float,
) -> np.ndarray:
    """Rows of a kernel around `centres` [outputs], as wide as `scale` but never below 1."""
    width = max(scale, 1.0)
    # Pillow leaves out pixels whose middle lies beyond the support, with its own rounding.
    first = np.maximum((centres - support * width + 0.5).astype(int), 0)[:, None]
    stop = np.minimum((centres + support * width + 0.5).astype(int), inputs)[:, None]
    pixels = np.arange(inputs)[None]
    matrix = kernel((pixels + 0.5 - centres[:, None]) / width)
    matrix = np.where((pixels >= first) & (pixels < stop), matrix, 0.0)
    return matrix / matrix.sum(axis=1, keepdims=True)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys 1981 with a = -1/2."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))

"""Cascades: the low-resolution image that a super-resolution model is conditioned on."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.schedules import expand

NAME = "low_resolution"  # of the condition


def low_resolution(
    small: jax.Array, level: jax.Array, eps: jax.Array, shape: Sequence[int]
) -> jax.Array:
    """A small image as a condition: noised, enlarged bilinearly, and beside it how little noise.

    sqrt(1 - level²) small + level eps is enlarged, centres of pixels half a pixel inside, as Pillow
    does. The last channel is 1 - level everywhere: all zeros, the null form of an image, then say
    that nothing is known, and no image that is given looks like that.

    Args:
      small: [B, h, w, C] in [-1, 1].
      level: [B] in [0, 1): the standard deviation of the noise.
      eps: standard normal, [B, h, w, C].
      shape: (H, W), at least (h, w).

    Returns:
      [B, H, W, C + 1].

    Raises:
      ValueError: for shapes that do not fit each other.

    Source: Ho et al. 2022, "Cascaded diffusion models", section 4: non-truncated conditioning
    augmentation, the model taking its level.
    """
    if small.ndim != 4 or eps.shape != small.shape or level.shape != small.shape[:1]:
        raise ValueError(
            "need small and eps [B, h, w, C] and level [B], got "
            f"{small.shape}, {eps.shape} and {level.shape}"
        )
    batch, height, width, channels = small.shape
    if len(shape) != 2 or shape[0] < height or shape[1] < width:
        raise ValueError(f"need a shape (H, W) of at least {(height, width)}, got {tuple(shape)}")
    level = expand(level, small)
    noised = jnp.sqrt(1 - level**2) * small + level * eps
    enlarged = jax.image.resize(noised, (batch, *shape, channels), "bilinear")
    return jnp.concatenate([enlarged, jnp.broadcast_to(1 - level, (batch, *shape, 1))], axis=-1)


def noised(keys: jax.Array, small: jax.Array, level: jax.Array, shape: Sequence[int]) -> jax.Array:
    """`low_resolution` with the noise of one key [B] an image."""
    eps = jax.vmap(lambda key: jax.random.normal(key, small.shape[1:], small.dtype))(keys)
    return low_resolution(small, level, eps, shape)


def check_level(level: float) -> None:
    """Raises ValueError unless 0 <= level < 1."""
    if not 0 <= level < 1 or not math.isfinite(level):
        raise ValueError(f"need 0 <= augmentation < 1, got augmentation={level}")

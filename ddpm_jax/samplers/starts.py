"""Where a sampler starts, if not from noise alone: from an image (SDEdit), or between two."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import process
from ddpm_jax.diffusion.schedules import Schedule, expand
from ddpm_jax.samplers import base


def noised_start(key: jax.Array, schedule: Schedule, times: Any, x0: jax.Array) -> jax.Array:
    """An image noised to the grid's first time, x = alpha(times[0]) x_0 + sigma(times[0]) noise.

    Sampled down a grid of `grids.truncated`, it becomes an image of the model's that keeps the
    coarse features of x_0, the more the later the grid starts. From x_0 = 0 this is
    `initial_noise`.

    Args:
      key: a scalar key, or [B] keys, one an image.
      schedule: the path.
      times: the sampler's grid; only the first time counts.
      x0: the image, [B, ...], in the data's range.

    Returns:
      x at times[0], [B, ...].

    Raises:
      ValueError: if x0 is neither float32 nor float64, or the keys do not fit it.

    Source: Meng et al. 2022 (SDEdit), Algorithm 1; on a variance-preserving path, Algorithm 2.
    """
    keys = base.check_start(key, x0)
    return process.add_noise(schedule, x0, _first(times, x0), base.normal(keys, x0))


def interpolated_start(
    key: jax.Array,
    schedule: Schedule,
    times: Any,
    x0: jax.Array,
    other: jax.Array,
    share: jax.Array | float,
    *,
    shared_noise: bool = True,
) -> jax.Array:
    """(1 - share) x_t + share x'_t of two images noised to the grid's first time.

    With one noise for both, the level of the noise is that of the time; it is then also the
    noised mixture of the images. With two draws, as in the paper's code, the noise's variance is
    (1 - share)² + share² of what a network expects, half of it in the middle.

    Args:
      key: a scalar key, or [B] keys, one an image; the same key for every share that is compared.
      schedule: the path.
      times: the sampler's grid; only the first time counts.
      x0, other: the images, [B, ...] each, in the data's range.
      share: of the other one, a number or [B]; in [0, 1] to interpolate. 0 is `noised_start` of x0,
        and 1, with shared_noise, that of other.
      shared_noise: one noise for both; False for a noise each.

    Returns:
      x at times[0], [B, ...].

    Raises:
      ValueError: if the images differ in shape, the share is neither a number nor [B], or as
        `noised_start`.

    Source: Ho et al. 2020, section 4.3.
    """
    if other.shape != x0.shape:
        raise ValueError(f"need two images of one shape, got {x0.shape} and {other.shape}")
    share = jnp.asarray(share, x0.dtype)
    if share.shape not in ((), x0.shape[:1]):
        raise ValueError(f"need a share, or one for each of {len(x0)}, got {share.shape}")
    keys = base.check_start(key, x0)
    key_other = keys if shared_noise else base.fold_in(keys, 1)
    first, second = (
        noised_start(key, schedule, times, image) for key, image in ((keys, x0), (key_other, other))
    )
    share = expand(share, x0)
    return (1 - share) * first + share * second


def _first(times: Any, x: jax.Array) -> jax.Array:
    return jnp.full(x.shape[:1], np.asarray(times, np.float64)[0], x.dtype)

"""Images at a time of a run's path, for what was trained on noised ones."""

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import process
from ddpm_jax.errors import UserError
from ddpm_jax.trained.loaded import Loaded


def noised(loaded: Loaded, x0: np.ndarray, t: float, *, seed: int) -> jax.Array:
    """x_t of clean images, [N, ...]; at t = 0 they are as they were.

    Args:
      loaded: whose path it is.
      x0: [N, ...].
      t: in [0, 1].
      seed: image k gets the noise of (seed, k).

    Raises:
      UserError: for a t out of range.
    """
    images = jnp.asarray(x0)
    time = _checked(t)
    if time == 0:
        return images
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.arange(len(images)))
    eps = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(keys)
    times = jnp.full(len(images), time, images.dtype)
    return process.add_noise(loaded.experiment.schedule_of(loaded.params), images, times, eps)


def network_time(loaded: Loaded, t: float) -> jax.Array:
    """t as the network is told it, a scalar. Raises UserError for a t out of range."""
    schedule = loaded.experiment.schedule_of(loaded.params)
    return schedule.network_time(jnp.asarray(_checked(t), jnp.float32))


def _checked(t: float) -> float:
    if not 0 <= t <= 1:
        raise UserError(f"t={t}: need 0 (no noise) to 1")
    return t

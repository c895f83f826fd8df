"""The scan that every sampler runs in: it owns the loop, the times and the keys."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.schedules import Schedule, expand

# (x, s [B], t [B], key) -> x at s
Step = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def scan_steps(
    step: Step, times: Any, key: jax.Array, x: jax.Array, *, return_trajectory: bool = False
) -> Any:
    """Run `step` from times[0] to times[-1] in one `lax.scan`.

    Args:
      step: (x [B, ...], s [B], t [B], key) -> x at time s < t. The key is this step's own, a scalar
        or [B], for `normal`.
      times: descending, [num_steps + 1], concrete: the grid is part of the compiled program.
      key: a scalar key, or [B] keys (one an image, which then depends on no other image).
      x: the start, x at times[0], [B, ...].
      return_trajectory: also return x at every time.

    Returns:
      x at times[-1]; with return_trajectory, that and [num_steps + 1, B, ...], the start included.

    Raises:
      ValueError: if the times do not descend strictly within [0, 1], the keys are neither a scalar
        nor [B], or x is neither float32 nor float64.
    """
    if x.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"x must be float32 or float64, got {x.dtype}: only a network may be less")
    times = check_times(times)
    keys = as_keys(key)
    if keys.shape not in ((), x.shape[:1]):
        raise ValueError(f"need a scalar key or one for each of {x.shape[0]}, got {keys.shape}")
    grid = jnp.asarray(times, x.dtype)

    def body(x: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, Any]:
        index, t, s = inputs
        s, t = (jnp.broadcast_to(time, x.shape[:1]) for time in (s, t))
        x = step(x, s, t, _fold_in(keys, index))
        return x, (x if return_trajectory else None)

    last, path = jax.lax.scan(body, x, (jnp.arange(len(times) - 1), grid[:-1], grid[1:]))
    return (last, jnp.concatenate((x[None], path))) if return_trajectory else last


def normal(key: jax.Array, like: jax.Array) -> jax.Array:
    """Standard normal noise like `like` [B, ...] in shape and dtype, from a scalar or [B] keys."""
    if key.ndim == 0:
        return jax.random.normal(key, like.shape, like.dtype)
    return jax.vmap(lambda k: jax.random.normal(k, like.shape[1:], like.dtype))(key)


def initial_noise(
    key: jax.Array, schedule: Schedule, times: Any, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> jax.Array:
    """The start of a sampler without an initial image: x = sigma(times[0]) noise, of `shape`.

    Args:
      key: a scalar key, or [shape[0]] keys.
    """
    like = jnp.zeros(shape, dtype)
    start = jnp.full(shape[:1], times[0], dtype)
    return expand(schedule.sigma(start), like) * normal(as_keys(key), like)


def as_keys(key: jax.Array) -> jax.Array:
    """Typed keys from typed keys or from raw uint32 ones ([..., 2], as `jax.random.PRNGKey`)."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)


def check_times(times: Any) -> np.ndarray:
    """The grid as an array. Raises ValueError unless it descends strictly within [0, 1]."""
    times = np.asarray(times, np.float64)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must be [num_steps + 1] with num_steps >= 1, got {times.shape}")
    if not (np.all(np.diff(times) < 0) and times[0] <= 1 and times[-1] >= 0):
        raise ValueError(
            f"times must descend strictly within [0, 1], got {times[0]:g} ... {times[-1]:g}; "
            "see ddpm_jax.samplers.grids"
        )
    return times


def _fold_in(keys: jax.Array, index: jax.Array) -> jax.Array:
    if keys.ndim == 0:
        return jax.random.fold_in(keys, index)
    return jax.vmap(lambda k: jax.random.fold_in(k, index))(keys)

"""The scan that every sampler runs in: it owns the loop, the times and the keys."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import streams
from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.schedules import Schedule, expand

# (x, s [B], t [B], key, *numbers of the step) -> x at s
Step = Callable[..., jax.Array]
# (key, x [B, ...], s [B]) -> x after a step to time s
Project = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# Karras et al.'s last noise level: below it a network has nothing left to remove.
_SMALLEST_LEVEL = 0.002
# Deviations of data that a step must be safe on: of pixels in [-1, 1], and of normalised latents.
DATA_STDS = (0.5, 1.0)


def scan_steps(
    step: Step,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    tables: Sequence[np.ndarray] = (),
    project: Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """Run `step` from times[0] to times[-1] in one `lax.scan`.

    Args:
      step: (x [B, ...], s [B], t [B], key, *row) -> x at time s < t. The key is this step's own, a
        scalar or [B], for `normal`; the row holds this step's entry of each table.
      times: descending, [num_steps + 1], concrete: the grid is part of the compiled program.
      key: a scalar key, or [B] keys (one an image, which then depends on no other image).
      x: the start, x at times[0], [B, ...].
      tables: [num_steps] each, the coefficients of the steps, from `tabulate`.
      project: what every step's result goes through, with a key of its own; None for nothing.
      return_trajectory: also return x at every time.

    Returns:
      x at times[-1]; with return_trajectory, that and [num_steps + 1, B, ...], the start included.

    Raises:
      ValueError: if the times do not descend strictly within [0, 1], or as `check_start`.
    """
    times = check_times(times)
    keys = check_start(key, x)
    grid = jnp.asarray(times, x.dtype)

    def body(x: jax.Array, inputs: tuple[Any, ...]) -> tuple[jax.Array, Any]:
        index, t, s, row = inputs
        s, t = (jnp.broadcast_to(time, x.shape[:1]) for time in (s, t))
        key = fold_in(keys, index)
        x = step(x, s, t, key, *row)
        if project is not None:
            x = project(streams.fold(key, streams.PROJECTION), x, s)
        return x, (x if return_trajectory else None)

    rows = tuple(jnp.asarray(table, x.dtype) for table in tables)
    last, path = jax.lax.scan(body, x, (jnp.arange(len(times) - 1), grid[:-1], grid[1:], rows))
    return (last, jnp.concatenate((x[None], path))) if return_trajectory else last


def tabulate(
    times: Any, coefficients: Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]]
) -> tuple[np.ndarray, ...]:
    """coefficients(s, t) of every step of the grid, each [num_steps], in float64.

    They are computed once, outside of the compiled program, and so hold to float32's last digit.

    Raises:
      ValueError: if the schedule's values are not known, or the times do not descend.
    """
    times = check_times(times)
    with jax.ensure_compile_time_eval(), jax.enable_x64(True), _known_schedule():
        t = jnp.asarray(times, jnp.float64)
        return tuple(np.asarray(c, np.float64) for c in coefficients(t[1:], t[:-1]))


class SignalNoise(NamedTuple):
    """The schedule at known times, in float64: alpha, sigma and lam = log(alpha / sigma)."""

    alpha: np.ndarray
    sigma: np.ndarray
    lam: np.ndarray


def signal_noise(schedule: Schedule, times: Any) -> SignalNoise:
    """alpha, sigma and log(alpha / sigma) at times; the last is infinite where one of them is 0.

    Raises:
      ValueError: if the schedule depends on traced values.
    """
    with _known_schedule():
        alpha, sigma = schedule.values(np.asarray(times, np.float64))
    with np.errstate(divide="ignore"):
        return SignalNoise(alpha, sigma, np.log(alpha) - np.log(sigma))


def times_of(schedule: Schedule, lam: Any) -> np.ndarray:
    """The times in [0, 1] of half log-SNRs lam = log(alpha / sigma), any shape, in float64.

    As `schedules.time_of_log_snr`, without compiling anything for a grid that is needed once.

    Raises:
      ValueError: if the schedule depends on traced values.
    """
    lam = np.asarray(lam, np.float64)
    low, high = np.zeros_like(lam), np.ones_like(lam)
    for _ in range(schedules.HALVINGS):
        middle = 0.5 * (low + high)
        too_clean = signal_noise(schedule, middle).lam > lam
        low, high = np.where(too_clean, middle, low), np.where(too_clean, high, middle)
    return 0.5 * (low + high)


def earliest_time(schedule: Schedule) -> float:
    """The earliest time that the network is meant to be asked about, in [0, 1).

    1 / T of a discrete schedule; 0 of a continuous one that starts above sigma = 0, and otherwise
    the time of its smallest_level of sigma / alpha, 0.002 where it states none.

    Raises:
      ValueError: if the schedule depends on traced values.

    Source of the 0.002: Karras et al. 2022, table 1.
    """
    if schedule.betas is not None:
        return 1 / schedule.num_steps
    level = schedule.smallest_level
    if level is None and signal_noise(schedule, 0.0).sigma > 0:
        return 0.0
    return float(times_of(schedule, -np.log(_SMALLEST_LEVEL if level is None else level)))


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
      times: the grid; `check_noise` says whether noise alone is a start for it.
    """
    like = jnp.zeros(shape, dtype)
    start = jnp.full(shape[:1], times[0], dtype)
    return expand(schedule.sigma(start), like) * normal(as_keys(key), like)


def check_noise(schedule: Schedule, times: Any) -> None:
    """Refuse a grid that begins where an image is still there: noise alone is no start for it.

    x at times[0] should be alpha x_0 + sigma eps, and the start is sigma eps. On N(0, I) data the
    exact flow takes that to the deviation sigma / sqrt(alpha² + sigma²) = 1 / sqrt(1 + SNR) instead
    of 1. Refused is a grid that loses more than half of the variance beside that from t = 1:
    1 + SNR(times[0]) > 2 (1 + SNR(1)). Where the schedule ends in noise, that is alpha > sigma.
    The "leading" grids in use begin at an SNR below 0.2: 10 steps of `cosine` at 0.025.

    Args:
      times: the grid; only the first time counts.

    Raises:
      ValueError: naming the time and the SNR there.
    """
    alpha, sigma, _ = signal_noise(schedule, [float(times[0]), 1.0])
    signal, noise = alpha**2, np.maximum(sigma**2, np.finfo(np.float64).tiny)
    snr, last = signal / noise
    if 1 + snr > 2 * (1 + last):
        raise ValueError(
            f"the grid begins at t = {float(times[0]):.4g}, where alpha² / sigma² is {snr:.3g}: "
            "noise alone gives grey samples from there; begin nearer to t = 1, with the uniform "
            "grid or more steps"
        )


def as_keys(key: jax.Array) -> jax.Array:
    """Typed keys from typed keys or from raw uint32 ones ([..., 2], as `jax.random.PRNGKey`)."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)


def check_start(key: jax.Array, x: jax.Array) -> jax.Array:
    """Typed keys that fit x [B, ...]: a scalar or [B].

    Raises:
      ValueError: if x is neither float32 nor float64, or the keys do not fit it.
    """
    if x.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"x must be float32 or float64, got {x.dtype}: only a network may be less")
    keys = as_keys(key)
    if keys.shape not in ((), x.shape[:1]):
        raise ValueError(f"need a scalar key or one for each of {x.shape[0]}, got {keys.shape}")
    return keys


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


def fold_in(keys: jax.Array, index: jax.Array | int) -> jax.Array:
    """`jax.random.fold_in` for a scalar or [B] keys."""
    if keys.ndim == 0:
        return jax.random.fold_in(keys, index)
    return jax.vmap(lambda k: jax.random.fold_in(k, index))(keys)


@contextlib.contextmanager
def _known_schedule() -> Iterator[None]:
    try:
        yield
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(
            "a sampler needs a schedule of known values, got one of traced parameters: build a "
            "learned schedule from concrete parameters, outside of jit"
        ) from error

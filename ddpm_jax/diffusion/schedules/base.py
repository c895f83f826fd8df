"""What a schedule is: a record of functions of t; and its inverse."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Function = Callable[[jax.Array], jax.Array]

# Halvings of [0, 1] to find a time: enough for float64 digits of times down to 1e-9.
HALVINGS = 84


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A Gaussian path and the clock of the network trained on it.

    Attributes:
      alpha: signal level of t, any shape of t in [0, 1].
      sigma: noise level of t.
      network_time: t in the units that the network was trained on (the index i - 1 for DDPM).
      betas: float64 [T] for a discrete schedule, betas[i - 1] = beta_i; None for a continuous one.
      smallest_level: of a continuous path to sigma = 0, the smallest sigma / alpha that the network
        is meant to be asked about, above 0; None if the path does not say.

    Raises:
      ValueError: for a smallest_level out of range, or if the signal-to-noise ratio rises with t
        anywhere on a grid of 65 times. (A schedule built from traced values cannot be looked at,
        and is not.)
    """

    alpha: Function
    sigma: Function
    network_time: Function
    betas: np.ndarray | None = None
    smallest_level: float | None = None

    def __post_init__(self) -> None:
        if self.smallest_level is not None and not 0 < self.smallest_level < math.inf:
            raise ValueError(f"need 0 < smallest_level < inf, got {self.smallest_level}")
        try:
            alpha, sigma = self.values(np.linspace(0, 1, 65))
        except jax.errors.TracerArrayConversionError:
            return
        if not (np.all(np.isfinite([alpha, sigma])) and np.all(alpha >= 0) and np.all(sigma >= 0)):
            raise ValueError("a schedule needs finite alpha(t) >= 0 and sigma(t) >= 0 on [0, 1]")
        # Of neighbours: alpha_s / sigma_s >= alpha_t / sigma_t, without dividing.
        rises = alpha[:-1] * sigma[1:] < alpha[1:] * sigma[:-1] * (1 - 1e-9)
        if rises.any():
            t = float(np.linspace(0, 1, 65)[rises.argmax()])
            raise ValueError(
                f"the SNR alpha²/sigma² must fall with t, but it rises after t={t:.3g}: does time "
                "run from the data at t = 0 to the noise at t = 1?"
            )

    def log_snr(self, t: jax.Array) -> jax.Array:
        """The log signal-to-noise ratio 2 log(alpha(t) / sigma(t)); infinite where sigma is 0."""
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    def values(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """alpha and sigma at known times, in float64, wherever this is called from.

        Samplers take their coefficients from here: they are then exact to the last float32 digit,
        and a trace that this happens in does not see them computed.

        Raises:
          jax.errors.TracerArrayConversionError: if the schedule depends on traced values.
        """
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            t = jnp.asarray(times, jnp.float64)
            return np.asarray(self.alpha(t)), np.asarray(self.sigma(t))

    @property
    def num_steps(self) -> int:
        """T of a discrete schedule. Raises ValueError for a continuous one."""
        if self.betas is None:
            raise ValueError("this schedule is continuous: it has no number of steps of its own")
        return len(self.betas)


def from_gamma(gamma: Function) -> Schedule:
    """The variance-preserving path of a given gamma(t) = -log SNR(t), for example a learned one.

    alpha² = sigmoid(-gamma), sigma² = sigmoid(gamma). The network takes gamma, scaled to 0..999
    between the ends: what it sees at a noise level does not depend on the interior of gamma.

    Args:
      gamma: increasing, of any shape of t; may close over traced parameters.

    Source: Kingma et al. 2021 (VDM), equation 3 and appendix H.
    """

    def network_time(t: jax.Array) -> jax.Array:
        first, last = gamma(jnp.zeros((), t.dtype)), gamma(jnp.ones((), t.dtype))
        return 999 * (gamma(t) - first) / (last - first)

    return Schedule(
        alpha=lambda t: jnp.exp(0.5 * jax.nn.log_sigmoid(-gamma(t))),
        sigma=lambda t: jnp.exp(0.5 * jax.nn.log_sigmoid(gamma(t))),
        network_time=network_time,
    )


def pinned(
    schedule: Schedule,
    times: np.ndarray,
    alpha: np.ndarray,
    sigma: np.ndarray,
    network_time: np.ndarray,
) -> Schedule:
    """The same path and clock, but for what they are at a few times: there they are as given.

    For grids of other libraries, which interpolate their levels in another way between the nodes of
    a discrete schedule, or round the time that the network is shown.

    Args:
      schedule: any.
      times: [N] different times in [0, 1].
      alpha, sigma, network_time: [N] each, the values there.

    Raises:
      ValueError: if the lengths differ, times leave [0, 1], or as `Schedule`.
    """
    columns = [np.asarray(column, np.float64) for column in (times, alpha, sigma, network_time)]
    if {column.shape for column in columns} != {(len(columns[0]),)}:
        raise ValueError(f"need columns of one length, got {[c.shape for c in columns]}")
    pins = columns[0]
    if not (np.all(pins >= 0) and np.all(pins <= 1)):
        raise ValueError(f"need times in [0, 1], got {pins.min():g} to {pins.max():g}")

    def at_pins(values: np.ndarray, elsewhere: Function) -> Function:
        def function(t: jax.Array) -> jax.Array:
            t = jnp.asarray(t)
            if not jnp.issubdtype(t.dtype, jnp.floating):
                t = t.astype(jnp.float32)
            table = jnp.asarray(pins, t.dtype)
            apart = jnp.abs(t[..., None] - jnp.broadcast_to(table, (*t.shape, len(pins))))
            nearest = jnp.argmin(apart, axis=-1)
            at_one = jnp.min(apart, axis=-1) <= 4 * jnp.finfo(t.dtype).eps
            return jnp.where(at_one, jnp.asarray(values, t.dtype)[nearest], elsewhere(t))

        return function

    functions = (schedule.alpha, schedule.sigma, schedule.network_time)
    of_alpha, of_sigma, clock = map(at_pins, columns[1:], functions)
    return dataclasses.replace(schedule, alpha=of_alpha, sigma=of_sigma, network_time=clock)


def time_of_log_snr(schedule: Schedule, log_snr: jax.Array) -> jax.Array:
    """The t in [0, 1] of a log-SNR, the inverse of `schedule.log_snr`, by bisection.

    Args:
      schedule: any; may be traced.
      log_snr: of any shape; beyond the schedule's ends the answer is 0 or 1.

    Returns:
      t, of the shape and dtype of log_snr.
    """
    # The logarithm of 0 at an end is the infinity that it should be.
    log_snr = jnp.asarray(log_snr)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        too_clean = schedule.log_snr(middle) > log_snr
        return jnp.where(too_clean, middle, low), jnp.where(too_clean, high, middle)

    ends = jnp.zeros_like(log_snr), jnp.ones_like(log_snr)
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, ends)
    return 0.5 * (low + high)


def expand(values: jax.Array, like: jax.Array) -> jax.Array:
    """Values [B] (or a scalar) with trailing axes of size 1, ready to multiply `like` [B, ...]."""
    values = jnp.asarray(values)
    return values.reshape(values.shape + (1,) * (jnp.ndim(like) - values.ndim))

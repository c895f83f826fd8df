"""Noise schedules: one Gaussian path x_t = alpha(t) x_0 + sigma(t) eps, t in [0, 1].

A schedule is a record of functions of t. Discrete T-step schedules place step i at t = i / T and
keep one table, log alpha_bar_i for i = 0..T, from which everything else follows.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Function = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A Gaussian path and the clock of the network trained on it.

    Attributes:
      alpha: signal level of t, any shape of t in [0, 1].
      sigma: noise level of t.
      network_time: t in the units that the network was trained on (the index i - 1 for DDPM).
      betas: float64 [T] for a discrete schedule, betas[i - 1] = beta_i; None for a continuous one.
    """

    alpha: Function
    sigma: Function
    network_time: Function
    betas: np.ndarray | None = None

    def log_snr(self, t: jax.Array) -> jax.Array:
        """The log signal-to-noise ratio 2 log(alpha(t) / sigma(t)); infinite where sigma is 0."""
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    @property
    def num_steps(self) -> int:
        """T of a discrete schedule. Raises ValueError for a continuous one."""
        if self.betas is None:
            raise ValueError("this schedule is continuous: it has no number of steps of its own")
        return len(self.betas)


def from_betas(betas: np.ndarray) -> Schedule:
    """The variance-preserving schedule of q(x_i | x_{i-1}) = N(sqrt(1 - beta_i) x_{i-1}, beta_i I).

    Args:
      betas: [T], each in (0, 1).

    Returns:
      A Schedule with alpha² + sigma² = 1 whose log alpha_bar is linear between the steps.

    Raises:
      ValueError: if betas is empty, not one-dimensional, or leaves (0, 1).

    Source: Ho et al. 2020, section 2, equations 2 and 4.
    """
    betas = np.array(betas, np.float64)
    if betas.ndim != 1 or betas.size == 0:
        raise ValueError(f"need betas of shape [T] with T >= 1, got shape {betas.shape}")
    if not np.all((betas > 0) & (betas < 1)):
        raise ValueError(f"need 0 < beta < 1 at every step, got {betas.min()=}, {betas.max()=}")
    betas.setflags(write=False)
    num_steps = len(betas)
    # Summed in float64 and kept as a logarithm: 1 - alpha_bar from a float32 alpha_bar has lost
    # half of its digits at the first steps.
    log_alphas_cumprod = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])

    def log_alpha_bar(t: jax.Array) -> jax.Array:
        position = _position(t, num_steps)
        table = jnp.asarray(log_alphas_cumprod, position.dtype)
        index = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, num_steps - 1)
        fraction = position - index
        return (1 - fraction) * table[index] + fraction * table[index + 1]

    return Schedule(
        alpha=lambda t: jnp.exp(0.5 * log_alpha_bar(t)),
        # abs, not a minus sign: that would make sigma(0) a negative zero.
        sigma=lambda t: jnp.sqrt(jnp.abs(jnp.expm1(log_alpha_bar(t)))),
        network_time=lambda t: jnp.clip(_position(t, num_steps) - 1, 0, num_steps - 1),
        betas=betas,
    )


def linear(num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Betas that rise linearly, the schedule of DDPM.

    Args:
      num_steps: T, at least 1.
      beta_start: beta_1, in (0, 1).
      beta_end: beta_T, in [beta_start, 1).

    Raises:
      ValueError: for a number of steps below 1 or betas out of range.

    Source: Ho et al. 2020, section 4.
    """
    _check_num_steps(num_steps)
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"need 0 < beta_start <= beta_end < 1, got {beta_start=}, {beta_end=}")
    return from_betas(np.linspace(beta_start, beta_end, num_steps))


def cosine(num_steps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """alpha_bar(t) = f(t) / f(0) with f(t) = cos²((t + s) / (1 + s) π/2), its betas clipped.

    Args:
      num_steps: T, at least 1.
      s: the offset that keeps beta_1 from vanishing, at least 0.
      max_beta: the bound on beta near t = 1, in (0, 1).

    Raises:
      ValueError: for a number of steps below 1, a negative s, or max_beta out of range.

    Source: Nichol & Dhariwal 2021, equation 17.
    """
    _check_num_steps(num_steps)
    if s < 0:
        raise ValueError(f"need s >= 0, got {s=}")
    if not 0 < max_beta < 1:
        raise ValueError(f"need 0 < max_beta < 1, got {max_beta=}")
    t = np.arange(num_steps + 1) / num_steps
    alphas_cumprod = np.cos((t + s) / (1 + s) * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], max_beta))


def expand(values: jax.Array, like: jax.Array) -> jax.Array:
    """Values [B] (or a scalar) with trailing axes of size 1, ready to multiply `like` [B, ...]."""
    values = jnp.asarray(values)
    return values.reshape(values.shape + (1,) * (jnp.ndim(like) - values.ndim))


def _position(t: jax.Array, num_steps: int) -> jax.Array:
    """t T as a real number, on the node where it is within 1e-3 of one.

    In float32, (i / T) T falls short of i for some i, and a floor would read the step before.
    """
    t = jnp.asarray(t)
    if not jnp.issubdtype(t.dtype, jnp.floating):
        t = t.astype(jnp.float32)
    position = t * num_steps
    node = jnp.round(position)
    return jnp.where(jnp.abs(position - node) < 1e-3, node, position)


def _check_num_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"need num_steps >= 1, got {num_steps=}")

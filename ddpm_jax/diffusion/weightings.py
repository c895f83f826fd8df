"""Weightings: what multiplies the eps-MSE of an example at time t (Kingma & Gao's convention).

A `Weighting` is a function (schedule, t [B]) -> [B]. The weight on the error of x_0 is this times
the SNR, on the error of v (variance preserving) this times SNR / (SNR + 1); `losses.weighted`
converts, so that any weighting goes with any parameterisation.

Each is read on the `bounded` schedule, whose log-SNR stays within ±30: so a weight is finite on
paths that reach alpha = 0 or sigma = 0, and its product with a conversion keeps its limit there.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.prediction import previous_time
from ddpm_jax.diffusion.schedules import Schedule

Weighting = Callable[[Schedule, jax.Array], jax.Array]

# At 30 float32 still holds a weight, its inverse and the square of both.
MAX_LOG_SNR = 30.0


def bounded(schedule: Schedule) -> Schedule:
    """The same path with its log-SNR clipped to ±30: alpha and sigma get a floor each.

    Returns:
      A Schedule that differs where alpha < 3e-7 sigma or sigma < 3e-7 alpha, and nowhere else.
    """
    floor = math.exp(-MAX_LOG_SNR / 2)
    return dataclasses.replace(
        schedule,
        alpha=lambda t: jnp.maximum(schedule.alpha(t), floor * schedule.sigma(t)),
        sigma=lambda t: jnp.maximum(schedule.sigma(t), floor * schedule.alpha(t)),
    )


def of_log_snr(weight: Callable[[jax.Array], jax.Array]) -> Weighting:
    """A weighting that depends on the log-SNR alone, whatever the path.

    Args:
      weight: log_snr [B], within ±30 -> [B].
    """

    def weighting(schedule: Schedule, t: jax.Array) -> jax.Array:
        # Clipped again: a floor of alpha is a floor of the log-SNR only up to rounding.
        return weight(jnp.clip(bounded(schedule).log_snr(t), -MAX_LOG_SNR, MAX_LOG_SNR))

    return weighting


def constant() -> Weighting:
    """1: the eps-MSE itself, L_simple. Source: Ho et al. 2020, equation 14."""
    return of_log_snr(jnp.ones_like)


def snr() -> Weighting:
    """SNR, which is SNR² on the error of x_0: nearly all the weight is on nearly clean data."""
    return of_log_snr(jnp.exp)


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) / SNR.

    Args:
      gamma: above 0; 5 in the paper.

    Raises:
      ValueError: unless gamma is above 0.

    Source: Hang et al. 2023, section 3.4: min(SNR, gamma) on the error of x_0.
    """
    _check_positive(gamma=gamma)
    # Without the quotient, which rounds away from 1.
    return of_log_snr(lambda log_snr: jnp.exp(jnp.minimum(0, math.log(gamma) - log_snr)))


def p2(k: float = 1.0, gamma: float = 1.0) -> Weighting:
    """1 / (k + SNR)^gamma.

    Args:
      k: above 0; 1 in the paper.
      gamma: at least 0; 0.5 and 1 in the paper; 0 is the constant.

    Raises:
      ValueError: for values out of range.

    Source: Choi et al. 2022, section 3.
    """
    _check_positive(k=k)
    if not 0 <= gamma < math.inf:
        raise ValueError(f"need a finite gamma >= 0, got {gamma=}")
    return of_log_snr(lambda log_snr: jnp.exp(-gamma * jnp.logaddexp(math.log(k), log_snr)))


def sigmoid(bias: float = 0.0) -> Weighting:
    """sigmoid(bias - log_snr).

    Args:
      bias: where in log-SNR the weight falls to a half.

    Raises:
      ValueError: if the bias is not finite.

    Source: Kingma & Gao 2023, section 5; Hoogeboom et al. 2024 (SiD2).
    """
    if not math.isfinite(bias):
        raise ValueError(f"need a finite bias, got {bias=}")
    return of_log_snr(lambda log_snr: jax.nn.sigmoid(bias - log_snr))


def edm(sigma_data: float = 0.5) -> Weighting:
    """1 + 1 / (sigma_data² SNR): Karras's lambda, which is 1 on the error of the raw network F.

    lambda(rho) = (rho² + sigma_data²) / (rho sigma_data)² multiplies the error of x_0, with
    rho = sigma / alpha; the error of eps is that over rho².

    Args:
      sigma_data: the standard deviation of the data, above 0.

    Raises:
      ValueError: unless sigma_data is above 0.

    Source: Karras et al. 2022, table 1 and appendix B.6.
    """
    _check_positive(sigma_data=sigma_data)
    return of_log_snr(lambda log_snr: 1 + jnp.exp(-log_snr) / sigma_data**2)


def truncated_snr() -> Weighting:
    """max(1, 1 / SNR): max(SNR, 1) on the error of x_0. Source: Salimans & Ho 2022, section 4."""
    return of_log_snr(lambda log_snr: jnp.exp(jnp.maximum(0, -log_snr)))


def likelihood() -> Weighting:
    """The weight under which the loss is a variational bound on -log p.

    On a continuous path it is -1/2 d log_snr / dt, the integrand of the continuous-time bound. On a
    discrete one it is T/2 (SNR(t - 1/T) / SNR(t) - 1), T times a KL divergence of the posterior
    with variance beta-tilde: the same in the limit, and exact at a finite T. Step 1, whose SNR(0)
    is infinite, takes the weight of step 2. In nats per dimension, for t uniform on (0, 1].

    Source: Kingma et al. 2021, equations 14 and 17; Song et al. 2021b, theorem 1.
    """

    def weighting(schedule: Schedule, t: jax.Array) -> jax.Array:
        if schedule.betas is None:
            return _half_slope(schedule, t)
        log_snr = bounded(schedule).log_snr
        t = jnp.maximum(t, 2 / schedule.num_steps)
        before = log_snr(previous_time(schedule, t))
        return 0.5 * schedule.num_steps * jnp.expm1(before - log_snr(t))

    return weighting


def _half_slope(schedule: Schedule, t: jax.Array) -> jax.Array:
    """-1/2 d log_snr / dt within ±30, and 0 beyond, where the bounded path stands still."""
    inside = jnp.abs(schedule.log_snr(t)) < MAX_LOG_SNR
    # Some other time instead: at the end itself the slope is infinite or the derivative NaN.
    t = jnp.where(inside, t, 0.5)
    slope = jax.jvp(schedule.log_snr, (t,), (jnp.ones_like(t),))[1]
    return jnp.where(inside, -0.5 * slope, 0)


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"need a finite {name} > 0, got {name}={value}")

"""The terms of the variational bound, for one pair of times each; nats per dimension."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import process, variances
from ddpm_jax.diffusion.prediction import Denoised
from ddpm_jax.diffusion.schedules import Schedule, expand


def vlb_term(
    schedule: Schedule,
    denoised: Denoised,
    x0: jax.Array,
    xt: jax.Array,
    s: jax.Array,
    t: jax.Array,
    *,
    variance: str = "fixed_large",
    decoder_levels: int | None = None,
) -> jax.Array:
    """One term of -log p(x_0): the KL divergence of the step from t to s, the decoder at s = 0.

    For s > 0, KL(q(x_s | x_t, x_0) || N(mu-tilde(x_t, x_0-hat), variance)). For s = 0 the step ends
    at the data themselves, and the term is -log p(x_0 | x_t) with the mean x_0-hat: sigma(0) counts
    as 0 there, so that the variance is right on paths with sigma(0) > 0 too.

    Args:
      schedule: the path.
      denoised: the estimate at x_t; its variance_fraction is read for "learned_range".
      x0: the data, [B, ...], in [-1, 1] if they have levels.
      xt: noised to time t, the shape of x0.
      s, t: [B] or scalars, 0 <= s < t <= 1.
      variance: of the step, one of `variances.VARIANCES`.
      decoder_levels: the number of values that the data take in [-1, 1], for the discretised
        Gaussian (-log of a probability); None for the Gaussian's density.

    Returns:
      [B], the mean over dimensions, in nats.

    Raises:
      ValueError: for shapes that differ, an unknown variance, a missing variance fraction, or
        fewer than 2 levels.

    Source: Ho et al. 2020, equations 5 and 13.
    """
    if not x0.shape == xt.shape == denoised.x0.shape:
        shapes = f"{x0.shape}, {xt.shape}, {denoised.x0.shape}"
        raise ValueError(f"x0, xt and denoised.x0 must have one shape, got {shapes}")
    s, t = process.time_like(s, xt), process.time_like(t, xt)
    schedule = ending_at_the_data(schedule)
    log_variance = variances.log_variance(variance, schedule, s, t, xt, denoised.variance_fraction)
    first = s <= 0
    # Any other s where the decoder is meant: the KL divergence of a point is infinite.
    kl = _step_kl(schedule, denoised, x0, jnp.where(first, 0.5 * t, s), t, log_variance)
    decoder = decoder_nll(x0, denoised.x0, log_variance, decoder_levels)
    return jnp.where(first, mean_of_dimensions(decoder), mean_of_dimensions(kl))


def decoder_nll(
    x0: jax.Array, mean: jax.Array, log_variance: jax.Array, levels: int | None
) -> jax.Array:
    """-log p(x_0) under a Gaussian, of each dimension.

    Args:
      x0: the data, [B, ...].
      mean: the Gaussian's, the shape of x0.
      log_variance: the log of its variance, of as many axes as x0.
      levels: the number of equidistant values in [-1, 1] that x0 takes: each owns the Gaussian's
        mass within half a spacing, the outermost two all that lies beyond them as well. None for
        the density at x0.

    Returns:
      The shape of x0, in nats.

    Raises:
      ValueError: for fewer than 2 levels.

    Source: Ho et al. 2020, equation 13.
    """
    inverse_std = jnp.exp(-0.5 * log_variance)
    residual = (x0 - mean) * inverse_std
    if levels is None:
        return 0.5 * (residual**2 + log_variance + math.log(2 * math.pi))
    check_levels(levels)
    half = inverse_std / (levels - 1)
    # The bin mirrored into the lower tail, where the log cdf keeps its digits.
    middle = -jnp.abs(residual)
    upper = jax.scipy.special.log_ndtr(middle + half)
    lower = jax.scipy.special.log_ndtr(middle - half)
    inner = upper + jnp.log(-jnp.expm1(lower - upper))
    edge = 1 - 1 / (levels - 1)
    open_below = jax.scipy.special.log_ndtr(residual + half)
    open_above = jax.scipy.special.log_ndtr(half - residual)
    return -jnp.where(x0 < -edge, open_below, jnp.where(x0 > edge, open_above, inner))


def prior_kl(schedule: Schedule, x0: jax.Array) -> jax.Array:
    """KL(q(x_1 | x_0) || N(0, sigma(1)² I)) = SNR(1) x_0² / 2, mean over dimensions, [B] nats.

    The prior is what the samplers start from, on every path.
    """
    one = jnp.ones(x0.shape[:1], jnp.promote_types(x0.dtype, jnp.float32))
    ratio = schedule.alpha(one) / schedule.sigma(one)
    return mean_of_dimensions(0.5 * (expand(ratio, x0) * x0) ** 2)


def check_levels(levels: int) -> None:
    """Raises ValueError unless `levels` can be the number of values of a pixel."""
    if levels < 2:
        raise ValueError(f"need levels >= 2 (256 for 8-bit images), got {levels=}")


def mean_of_dimensions(values: jax.Array) -> jax.Array:
    """The mean over all axes but the first, [B]."""
    return values.reshape(values.shape[0], -1).mean(axis=1)


def sum_of_dimensions(values: jax.Array) -> jax.Array:
    """The sum over all axes but the first, [B]."""
    return values.reshape(values.shape[0], -1).sum(axis=1)


def ending_at_the_data(schedule: Schedule) -> Schedule:
    """The same path with alpha(0) = 1 and sigma(0) = 0: at time 0 stand the data themselves."""
    return dataclasses.replace(
        schedule,
        alpha=lambda t: jnp.where(t <= 0, 1, schedule.alpha(t)),
        sigma=lambda t: jnp.where(t <= 0, 0, schedule.sigma(t)),
    )


def _step_kl(
    schedule: Schedule,
    denoised: Denoised,
    x0: jax.Array,
    s: jax.Array,
    t: jax.Array,
    log_variance: jax.Array,
) -> jax.Array:
    """KL(q(x_s | x_t, x_0) || N(mu-tilde(x_t, x_0-hat), exp(log_variance))), the shape of x0."""
    posterior = process.posterior_variance(schedule, s, t)
    log_ratio = expand(jnp.log(posterior), x0) - log_variance
    _, weight = process.posterior_coefficients(schedule, s, t)
    # Both means weigh x_t alike: only the x_0 differ. And both divide by the standard deviation
    # before they are squared, for variances that a float32 cannot square.
    error = expand(weight, x0) * jnp.exp(-0.5 * log_variance) * (x0 - denoised.x0)
    return 0.5 * (exp_above_its_tangent(log_ratio) + error**2)


def exp_above_its_tangent(x: jax.Array) -> jax.Array:
    """exp(x) - 1 - x, with its series where the difference would cancel."""
    series = x**2 * (0.5 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x / 720))))
    return jnp.where(jnp.abs(x) < 0.1, series, jnp.expm1(x) - x)

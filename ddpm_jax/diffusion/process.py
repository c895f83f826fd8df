"""The forward process and its posterior, for any Gaussian path and any two times s < t.

Each law is a Gaussian with a covariance that is a multiple of the identity, so a function returns
its mean (the shape of x) and its variance ([B], one number an example).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.schedules import Schedule, expand


class Gaussian(NamedTuple):
    """An isotropic Gaussian: mean [B, ...] and variance, a scalar or [B]."""

    mean: jax.Array
    variance: jax.Array

    def sample(self, noise: jax.Array) -> jax.Array:
        """mean + sqrt(variance) noise, with standard normal noise of the mean's shape.

        Raises:
          ValueError: if the noise has another shape.
        """
        _check_one_shape(mean=self.mean, noise=noise)
        return self.mean + expand(jnp.sqrt(self.variance), self.mean) * noise


def marginal(schedule: Schedule, x0: jax.Array, t: jax.Array) -> Gaussian:
    """q(x_t | x_0) = N(alpha_t x_0, sigma_t² I), t [B] or a scalar.

    Source: Ho et al. 2020, equation 4.
    """
    t = time_like(t, x0)
    return Gaussian(expand(schedule.alpha(t), x0) * x0, schedule.sigma(t) ** 2)


def add_noise(schedule: Schedule, x0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """x_t = alpha_t x_0 + sigma_t eps: a draw of q(x_t | x_0) when eps [B, ...] is standard normal.

    Raises:
      ValueError: if x0 and eps differ in shape.
    """
    _check_one_shape(x0=x0, eps=eps)
    t = time_like(t, x0)
    return expand(schedule.alpha(t), x0) * x0 + expand(schedule.sigma(t), x0) * eps


def transition_variance(schedule: Schedule, s: jax.Array, t: jax.Array) -> jax.Array:
    """The variance of q(x_t | x_s), sigma_t² - (alpha_t / alpha_s)² sigma_s²; beta_i for a step."""
    ratio = schedule.alpha(t) / schedule.alpha(s)
    return jnp.maximum(schedule.sigma(t) ** 2 - (ratio * schedule.sigma(s)) ** 2, 0)


def transition(schedule: Schedule, xs: jax.Array, s: jax.Array, t: jax.Array) -> Gaussian:
    """The forward step q(x_t | x_s) for any s < t.

    For neighbours s = t - 1/T this is q(x_i | x_{i-1}) = N(sqrt(1 - beta_i) x_{i-1}, beta_i I).

    Source: Ho et al. 2020, equation 2; Kingma et al. 2021, appendix A for any pair of times.
    """
    s, t = time_like(s, xs), time_like(t, xs)
    ratio = schedule.alpha(t) / schedule.alpha(s)
    return Gaussian(expand(ratio, xs) * xs, transition_variance(schedule, s, t))


def posterior_coefficients(
    schedule: Schedule, s: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The weights of x_t and x_0 in the mean of q(x_s | x_t, x_0); each has the shape of t.

    Source: Ho et al. 2020, equation 7.
    """
    variance_t = schedule.sigma(t) ** 2
    weight_xt = schedule.alpha(t) / schedule.alpha(s) * schedule.sigma(s) ** 2 / variance_t
    weight_x0 = schedule.alpha(s) * transition_variance(schedule, s, t) / variance_t
    return weight_xt, weight_x0


def posterior_mean(
    schedule: Schedule, xt: jax.Array, x0: jax.Array, s: jax.Array, t: jax.Array
) -> jax.Array:
    """mu-tilde, the mean of q(x_s | x_t, x_0) for any s < t; x0 itself at s = 0.

    Raises:
      ValueError: if xt and x0 differ in shape.

    Source: Ho et al. 2020, equation 7.
    """
    _check_one_shape(xt=xt, x0=x0)
    weight_xt, weight_x0 = posterior_coefficients(schedule, time_like(s, xt), time_like(t, xt))
    return expand(weight_xt, xt) * xt + expand(weight_x0, x0) * x0


def posterior_variance(schedule: Schedule, s: jax.Array, t: jax.Array) -> jax.Array:
    """beta-tilde, the variance of q(x_s | x_t, x_0); 0 at s = 0.

    Source: Ho et al. 2020, equation 7.
    """
    return transition_variance(schedule, s, t) * (schedule.sigma(s) / schedule.sigma(t)) ** 2


def posterior(
    schedule: Schedule, xt: jax.Array, x0: jax.Array, s: jax.Array, t: jax.Array
) -> Gaussian:
    """q(x_s | x_t, x_0) for any s < t."""
    variance = posterior_variance(schedule, time_like(s, xt), time_like(t, xt))
    return Gaussian(posterior_mean(schedule, xt, x0, s, t), variance)


def time_like(t: jax.Array, x: jax.Array) -> jax.Array:
    """t for data x [B, ...]: float64 if x is, so that it reads float64 tables, else float32.

    Never half precision, in which neighbouring steps are one time.

    Raises:
      ValueError: if t is neither a scalar nor [B].
    """
    t = jnp.asarray(t, jnp.promote_types(x.dtype, jnp.float32))
    if t.shape not in ((), x.shape[:1]):
        raise ValueError(f"t must be a scalar or [B], got {t.shape=} for x of shape {x.shape}")
    return t


def _check_one_shape(**arrays: jax.Array) -> None:
    if len({array.shape for array in arrays.values()}) > 1:
        shapes = " and ".join(str(array.shape) for array in arrays.values())
        raise ValueError(f"{' and '.join(arrays)} must have one shape, got {shapes}")

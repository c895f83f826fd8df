"""The variance of the reverse step p(x_s | x_t) = N(mu, variance), in three choices."""

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import process
from ddpm_jax.diffusion.schedules import Schedule, expand

VARIANCES = ("fixed_small", "fixed_large", "learned_range")


def check(name: str) -> None:
    """Raises ValueError for a name that is not in VARIANCES."""
    if name not in VARIANCES:
        raise ValueError(f"variance must be one of {', '.join(VARIANCES)}, got {name!r}")


def log_variance(
    name: str,
    schedule: Schedule,
    s: jax.Array,
    t: jax.Array,
    xt: jax.Array,
    fraction: jax.Array | None = None,
) -> jax.Array:
    """The log variance of the reverse step from t to s < t.

    Args:
      name: "fixed_small" (beta-tilde), "fixed_large" (beta), or "learned_range" (between the two).
      schedule: the path.
      s, t: [B] or scalars.
      xt: the noised data, [B, ...].
      fraction: for learned_range, the network's raw output like xt: -1 is beta-tilde, 1 is beta,
        and between (or beyond) them the logarithm is linear.

    Returns:
      [B, 1, ...], or [B, ...] where it is learned.

    Raises:
      ValueError: for an unknown name, or a fraction that is missing or not of xt's shape.

    Source: Ho et al. 2020, section 3.2; Nichol & Dhariwal 2021, equation 15.
    """
    check(name)
    s, t = process.time_like(s, xt), process.time_like(t, xt)
    small, large = (expand(of(schedule, s, t), xt) for of in (log_small, log_large))
    return between(name, small, large, xt, fraction)


def between(
    name: str, small: jax.Array, large: jax.Array, xt: jax.Array, fraction: jax.Array | None
) -> jax.Array:
    """The choice `name` between log beta-tilde and log beta, as `log_variance` describes it."""
    if name != "learned_range":
        return small if name == "fixed_small" else large
    if fraction is None or fraction.shape != xt.shape:
        got = None if fraction is None else fraction.shape
        raise ValueError(
            f"learned_range needs a variance fraction of the shape of xt, {xt.shape}, got {got}: "
            "build the denoiser with learned_variance=True"
        )
    share = 0.5 * (fraction + 1)
    return share * large + (1 - share) * small


def log_large(schedule: Schedule, s: jax.Array, t: jax.Array) -> jax.Array:
    """log beta, of the forward step from s to t; the shape of t."""
    return jnp.log(process.transition_variance(schedule, s, t))


def log_small(schedule: Schedule, s: jax.Array, t: jax.Array) -> jax.Array:
    """log beta-tilde, the shape of t; at s = 0, where it would be -inf, that of the step before.

    The step before is the next noisier one, from 2t to t: on a discrete schedule's own grid the
    step from i = 2 to 1. Nichol & Dhariwal 2021, section 3.1. Where there is none (t = 1), or it
    adds no noise (a path that stands still there), beta of the step itself.
    """
    first = s <= 0
    own = log_large(schedule, jnp.zeros_like(t), t)
    s, t = jnp.where(first, t, s), jnp.where(first, jnp.minimum(2 * t, 1), t)
    alone = s >= t
    variance = process.posterior_variance(schedule, jnp.where(alone, 0.5 * t, s), t)
    return jnp.where(alone | (first & (variance == 0)), own, jnp.log(variance))

"""Schedules that are closed forms of a continuous t in [0, 1]."""

import math

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.schedules.base import Function, Schedule, from_gamma


def vp_continuous(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """The variance-preserving SDE with beta(t) = beta_min + t (beta_max - beta_min).

    The continuous-time form of `linear`, whose betas are beta(t) / T.

    Args:
      beta_min, beta_max: rates at t = 0 and 1, 0 < beta_min <= beta_max < inf.

    Raises:
      ValueError: for rates out of order.

    Source: Song et al. 2021, equations 32 and 33.
    """
    _check_rates(beta_min, beta_max)
    return _variance_preserving(
        lambda t: -(beta_min * t + 0.5 * (beta_max - beta_min) * t**2),
    )


def scaled_linear_continuous(beta_min: float = 0.85, beta_max: float = 12.0) -> Schedule:
    """The variance-preserving SDE whose sqrt(beta(t)) is linear: `scaled_linear` as T grows.

    Raises:
      ValueError: unless 0 < beta_min <= beta_max < inf.

    Source: the schedule of Rombach et al. 2022 (latent diffusion), in the limit.
    """
    _check_rates(beta_min, beta_max)
    start, rise = math.sqrt(beta_min), math.sqrt(beta_max) - math.sqrt(beta_min)
    # The integral of (start + rise t)².
    return _variance_preserving(lambda t: -t * (start**2 + start * rise * t + rise**2 * t**2 / 3))


def sigmoid_continuous(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """The variance-preserving SDE whose beta(t) rises as sigmoid(12 t - 6): `sigmoid` as T grows.

    Raises:
      ValueError: unless 0 < beta_min <= beta_max < inf.

    Source: the schedule of Xu et al. 2022 (GeoDiff), in the limit.
    """
    _check_rates(beta_min, beta_max)

    def log_alpha_bar(t: jax.Array) -> jax.Array:
        # log((1 + e^(12 t - 6)) / (1 + e^-6)) without the difference of near numbers at small t.
        rise = jnp.log1p(jax.nn.sigmoid(-6.0) * jnp.expm1(12 * t)) / 12
        return -(beta_min * t + (beta_max - beta_min) * rise)

    return _variance_preserving(log_alpha_bar)


def cosine_continuous(s: float = 0.008) -> Schedule:
    """alpha = cos((t + s) / (1 + s) π/2) / cos(s / (1 + s) π/2): `cosine` as T grows.

    Without the discrete form's clipped betas it reaches alpha(1) = 0.

    Args:
      s: the offset that keeps the noise from vanishing too fast near t = 0, at least 0.

    Raises:
      ValueError: for an s that is negative or not finite.

    Source: Nichol & Dhariwal 2021, equation 17.
    """
    if not 0 <= s < math.inf:
        raise ValueError(f"need 0 <= s < inf, got {s=}")
    quarter = math.pi / 2 / (1 + s)
    first = math.cos(s * quarter)
    return Schedule(
        # As a sine of what is left to t = 1: exactly 0 there.
        alpha=lambda t: jnp.sin((1 - t) * quarter) / first,
        # cos² b - cos² a = sin(a - b) sin(a + b): nothing cancels at either end.
        sigma=lambda t: jnp.sqrt(jnp.sin(t * quarter) * jnp.sin((t + 2 * s) * quarter)) / first,
        network_time=_thousand,
    )


def sub_vp(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """The sub-VP SDE: VP's alpha, and sigma = 1 - alpha², below VP's sqrt(1 - alpha²).

    Raises:
      ValueError: unless 0 < beta_min <= beta_max < inf.

    Source: Song et al. 2021, equation 29 in appendix B.
    """
    vp = vp_continuous(beta_min, beta_max)
    return Schedule(vp.alpha, lambda t: vp.sigma(t) ** 2, vp.network_time)


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Schedule:
    """The variance-exploding path: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t.

    sigma(0) is sigma_min, not 0. The network takes log(sigma) / 4, as with `edm`.

    Raises:
      ValueError: unless 0 < sigma_min < sigma_max < inf.

    Source: Song et al. 2021, equation 31; settings of appendix C.
    """
    _check_sigmas(sigma_min, sigma_max)
    log_ratio = math.log(sigma_max / sigma_min)
    return Schedule(
        alpha=jnp.ones_like,
        sigma=lambda t: sigma_min * jnp.exp(log_ratio * t),
        network_time=lambda t: 0.25 * (math.log(sigma_min) + log_ratio * t),
    )


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Schedule:
    """alpha = 1, sigma(t) = sigma_max t; the network takes log(sigma) / 4.

    sigma_min is the last noise level that the network is asked about, the `smallest_level` where
    `grids.karras` and the adaptive ODE end unless told otherwise. Below it the network's clock
    stands still. Karras's rho belongs to the grid.

    Raises:
      ValueError: unless 0 < sigma_min < sigma_max < inf.

    Source: Karras et al. 2022, table 1 (c_noise, s(t), sigma(t)).
    """
    _check_sigmas(sigma_min, sigma_max)
    return Schedule(
        alpha=jnp.ones_like,
        sigma=lambda t: sigma_max * t,
        network_time=lambda t: 0.25 * jnp.log(jnp.maximum(sigma_max * t, sigma_min)),
        smallest_level=sigma_min,
    )


def flow(shift: float = 1.0) -> Schedule:
    """Rectified flow: alpha = 1 - u, sigma = u, with u = shift t / (1 + (shift - 1) t).

    The network takes u, its noise level.

    Args:
      shift: of time towards the noise for larger images, 0 < shift < inf; sqrt(pixels / base
        pixels), 3 at 1024x1024 in Esser et al.; 1 is none.

    Raises:
      ValueError: for a shift out of range.

    Source: Liu et al. 2022, equation 1; shift: Esser et al. 2024, equation 23.
    """
    if not 0 < shift < math.inf:
        raise ValueError(f"need 0 < shift < inf, got {shift=}")

    def shifted(t: jax.Array) -> jax.Array:
        return shift * t / (1 + (shift - 1) * t)

    # 1 - u, without the cancellation at t = 1.
    return Schedule(lambda t: (1 - t) / (1 + (shift - 1) * t), shifted, shifted)


def linear_gamma(gamma_0: float = -13.3, gamma_1: float = 5.0) -> Schedule:
    """The variance-preserving path whose log-SNR falls linearly from -gamma_0 to -gamma_1.

    What `learned` starts as. Uniform times then estimate a bound with the same care at every noise
    level. sigma(0) is sigmoid(gamma_0)^(1/2), not 0.

    Raises:
      ValueError: unless gamma_0 < gamma_1, both finite.

    Source: Kingma et al. 2021 (VDM), section 6 and appendix H (the fixed log-linear schedule).
    """
    if not -math.inf < gamma_0 < gamma_1 < math.inf:
        raise ValueError(f"need finite gamma_0 < gamma_1, got {gamma_0=}, {gamma_1=}")
    return from_gamma(lambda t: gamma_0 + (gamma_1 - gamma_0) * t)


def _variance_preserving(log_alpha_bar: Function) -> Schedule:
    return Schedule(
        alpha=lambda t: jnp.exp(0.5 * log_alpha_bar(t)),
        sigma=lambda t: jnp.sqrt(jnp.abs(jnp.expm1(log_alpha_bar(t)))),
        network_time=_thousand,
    )


def _thousand(t: jax.Array) -> jax.Array:
    """0..999, the range of the discrete index that sinusoidal embeddings were made for."""
    return 999 * t


def _check_rates(beta_min: float, beta_max: float) -> None:
    if not 0 < beta_min <= beta_max < math.inf:
        raise ValueError(f"need 0 < beta_min <= beta_max < inf, got {beta_min=}, {beta_max=}")


def _check_sigmas(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"need 0 < sigma_min < sigma_max < inf, got {sigma_min=}, {sigma_max=}")

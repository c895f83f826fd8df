"""Ancestral sampling of the reverse chain (Ho et al. 2020)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import guidance, process, variances
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.samplers import base


def ancestral(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    variance: str = "fixed_small",
    mean_gradient: guidance.Gradient | None = None,
    project: base.Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """Draw x_s ~ N(mu-tilde(x_t, x_0-hat), sigma² I) down the grid; no noise at s = 0.

    One network call a step (NFE = num_steps).

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path; any pair of neighbouring times of the grid makes a step (respacing).
      times: descending, [num_steps + 1]; `grids.uniform(schedule, T)` is Algorithm 2 itself.
      key: a scalar key, or [B] keys, one an image.
      x: x at times[0], [B, ...].
      variance: sigma² is beta-tilde ("fixed_small") or beta ("fixed_large") of each step, or lies
        between them where the network says so ("learned_range"; see `diffusion.variances`).
      mean_gradient: (x_t [B, ...], t [B]) -> [B, ...], times w; each step's mean is shifted by its
        variance times this. `guidance.classifier` says how that differs from guiding eps.
      project: (key, x [B, ...], s [B]) -> x after each step, at its time s.
      return_trajectory: also return x at every time, [num_steps + 1, B, ...].

    Returns:
      x at times[-1], [B, ...]; with return_trajectory a pair of it and the trajectory.

    Raises:
      ValueError: for an unknown variance, times that do not descend, or learned_range from a
        denoiser without a variance fraction.

    Source: Ho et al. 2020, Algorithm 2 and section 3.2; Nichol & Dhariwal 2021, section 3.1 and,
    for respacing, equation 19; Dhariwal & Nichol 2021, Algorithm 1, for mean_gradient.
    """
    coefficients, step = reverse_step(denoise, schedule, variance, mean_gradient)
    tables = base.tabulate(times, coefficients)
    return base.scan_steps(
        step,
        times,
        key,
        x,
        tables=tables,
        project=project,
        return_trajectory=return_trajectory,
    )


def reverse_step(
    denoise: Denoiser,
    schedule: Schedule,
    variance: str,
    mean_gradient: guidance.Gradient | None = None,
) -> tuple[Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]], base.Step]:
    """The step from t to s < t of the reverse chain: (its coefficients, for `tabulate`; itself).

    Args:
      denoise, schedule, variance, mean_gradient: as in `ancestral`.

    Raises:
      ValueError: for an unknown variance.
    """
    variances.check(variance)

    def coefficients(s: jax.Array, t: jax.Array) -> tuple[jax.Array, ...]:
        weights = process.posterior_coefficients(schedule, s, t)
        small, large = (of(schedule, s, t) for of in (variances.log_small, variances.log_large))
        # At s = 0, beta is not 0 but x_0 is not noised.
        return *weights, small, large, jnp.where(s > 0, 1.0, 0.0)

    def step(
        x: jax.Array, s: jax.Array, t: jax.Array, key: jax.Array, *row: jax.Array
    ) -> jax.Array:
        weight_xt, weight_x0, small, large, noised = row
        x0, _, fraction = denoise(x, t)
        log_variance = variances.between(variance, small, large, x, fraction)
        std = noised * jnp.exp(0.5 * log_variance)
        mean = weight_xt * x + weight_x0 * x0
        if mean_gradient is not None:
            mean += jnp.exp(log_variance) * mean_gradient(x, t)
        return mean + std * base.normal(key, x)

    return coefficients, step

"""Denoising diffusion implicit models (Song et al. 2021)."""

from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.samplers import base


def ddim(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    eta: float = 0.0,
    project: base.Project | None = None,
    return_trajectory: bool = False,
) -> Any:
    """x_s = alpha_s x_0-hat + sqrt(sigma_s² - std²) eps-hat + std z, std = eta sqrt(beta-tilde).

    One network call a step (NFE = num_steps). At eta = 0 it is Euler's method for the
    probability-flow ODE in the coordinates (x / alpha, sigma / alpha), and exact on a point mass.

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path.
      times: descending, [num_steps + 1].
      key: a scalar key, or [B] keys, one an image; without effect at eta = 0.
      x: x at times[0], [B, ...].
      eta: in [0, 1]; 0 is deterministic, 1 has the variance of ancestral sampling (fixed_small).
      project: (key, x [B, ...], s [B]) -> x after each step, at its time s.
      return_trajectory: also return x at every time, [num_steps + 1, B, ...].

    Returns:
      x at times[-1], [B, ...]; with return_trajectory a pair of it and the trajectory.

    Raises:
      ValueError: if eta leaves [0, 1] or the times do not descend.

    Source: Song et al. 2021 (DDIM), equations 12 and 16.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"need 0 <= eta <= 1, got {eta=}")

    def coefficients(s: jax.Array, t: jax.Array) -> tuple[jax.Array, ...]:
        alpha, sigma = schedule.alpha(s), schedule.sigma(s)
        # SNR_t / SNR_s. With it sigma_s² - std² needs no difference, which at eta = 1 would be of
        # near numbers: its root turns a rounding of 1e-16 into 1e-8.
        ratio = (schedule.alpha(t) * sigma / (alpha * schedule.sigma(t))) ** 2
        direction = sigma * jnp.sqrt(1 - eta**2 + eta**2 * ratio)
        return alpha, direction, eta * sigma * jnp.sqrt(1 - ratio)

    def step(
        x: jax.Array,
        s: jax.Array,
        t: jax.Array,
        key: jax.Array,
        alpha: Any,
        direction: Any,
        std: Any,
    ) -> jax.Array:
        x0, eps, _ = denoise(x, t)
        x = alpha * x0 + direction * eps
        return x if eta == 0 else x + std * base.normal(key, x)

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

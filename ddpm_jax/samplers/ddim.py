"""Denoising diffusion implicit models (Song et al. 2021)."""

from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import guidance, process
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule, expand
from ddpm_jax.samplers import base


def ddim(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    eta: float = 0.0,
    clip_x0: bool = False,
    return_trajectory: bool = False,
) -> Any:
    """x_s = alpha_s x_0-hat + sqrt(sigma_s² - std²) eps-hat + std z, std = eta sqrt(beta-tilde).

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path.
      times: descending, [num_steps + 1].
      key: a scalar key, or [B] keys, one an image; without effect at eta = 0.
      x: x at times[0], [B, ...].
      eta: in [0, 1]; 0 is deterministic, 1 has the variance of ancestral sampling (fixed_small).
      clip_x0: clip x_0-hat to [-1, 1]; eps-hat is derived anew from it.
      return_trajectory: also return x at every time, [num_steps + 1, B, ...].

    Returns:
      x at times[-1], and the trajectory if asked for.

    Raises:
      ValueError: if eta leaves [0, 1] or the times do not descend.

    Source: Song et al. 2021 (DDIM), equations 12 and 16.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"need 0 <= eta <= 1, got {eta=}")
    if clip_x0:
        denoise = guidance.clip_x0(denoise, schedule)

    def step(x: jax.Array, s: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        x0, eps, _ = denoise(x, t)
        variance = eta**2 * process.posterior_variance(schedule, s, t)
        direction = jnp.sqrt(jnp.maximum(schedule.sigma(s) ** 2 - variance, 0))
        x = expand(schedule.alpha(s), x) * x0 + expand(direction, x) * eps
        return x if eta == 0 else x + expand(jnp.sqrt(variance), x) * base.normal(key, x)

    return base.scan_steps(step, times, key, x, return_trajectory=return_trajectory)

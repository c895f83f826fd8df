"""Ancestral sampling of the reverse chain (Ho et al. 2020)."""

from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import guidance, process
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule, expand
from ddpm_jax.samplers import base

VARIANCES = {
    "fixed_small": process.posterior_variance,
    "fixed_large": process.transition_variance,
}


def ancestral(
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    variance: str = "fixed_small",
    clip_x0: bool = False,
    return_trajectory: bool = False,
) -> Any:
    """Draw x_s ~ N(mu-tilde(x_t, x_0-hat), sigma² I) down the grid; no noise at s = 0.

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path; any pair of neighbouring times of the grid makes a step (respacing).
      times: descending, [num_steps + 1]; `grids.uniform(schedule, T)` is Algorithm 2 itself.
      key: a scalar key, or [B] keys, one an image.
      x: x at times[0], [B, ...].
      variance: sigma² is beta-tilde ("fixed_small") or beta ("fixed_large") of each step.
      clip_x0: clip x_0-hat to [-1, 1].
      return_trajectory: also return x at every time, [num_steps + 1, B, ...].

    Returns:
      x at times[-1], and the trajectory if asked for.

    Raises:
      ValueError: for an unknown variance or times that do not descend.

    Source: Ho et al. 2020, Algorithm 2 and section 3.2.
    """
    if variance not in VARIANCES:
        raise ValueError(f"variance must be one of {', '.join(VARIANCES)}, got {variance!r}")
    step_variance = VARIANCES[variance]
    if clip_x0:
        denoise = guidance.clip_x0(denoise, schedule)

    def step(x: jax.Array, s: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        mean = process.posterior_mean(schedule, x, denoise(x, t).x0, s, t)
        std = jnp.sqrt(step_variance(schedule, s, t))
        std = jnp.where(s > 0, std, 0)  # at s = 0, beta is not 0 but x_0 is not noised
        return mean + expand(std, x) * base.normal(key, x)

    return base.scan_steps(step, times, key, x, return_trajectory=return_trajectory)

"""Samplers: sampler(denoise, schedule, times, key, x) -> x_0, each one compiled scan."""

from ddpm_jax.samplers import grids
from ddpm_jax.samplers.base import initial_noise
from ddpm_jax.samplers.ddim import ddim
from ddpm_jax.samplers.ddpm import ancestral

__all__ = ["ancestral", "ddim", "grids", "initial_noise"]

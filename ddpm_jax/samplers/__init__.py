"""Samplers: sampler(denoise, schedule, times, key, x) -> x_0, each one compiled scan."""

from ddpm_jax.samplers import grids
from ddpm_jax.samplers.base import initial_noise
from ddpm_jax.samplers.ddim import ddim
from ddpm_jax.samplers.ddpm import ancestral
from ddpm_jax.samplers.dpm_solver import dpm_solver_pp
from ddpm_jax.samplers.euler import edm_stochastic, euler, euler_ancestral, heun
from ddpm_jax.samplers.inpainting import repaint, replacement
from ddpm_jax.samplers.langevin import langevin
from ddpm_jax.samplers.ode import probability_flow
from ddpm_jax.samplers.predictor_corrector import predictor_corrector
from ddpm_jax.samplers.starts import interpolated_start, noised_start
from ddpm_jax.samplers.unipc import unipc

__all__ = [
    "ancestral",
    "ddim",
    "dpm_solver_pp",
    "edm_stochastic",
    "euler",
    "euler_ancestral",
    "grids",
    "heun",
    "initial_noise",
    "interpolated_start",
    "langevin",
    "noised_start",
    "predictor_corrector",
    "probability_flow",
    "repaint",
    "replacement",
    "unipc",
]

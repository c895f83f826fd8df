"""Samplers: sampler(denoise, schedule, times, key, x) -> x_0, each one compiled scan.

Beside its own options each takes clip_x0 and threshold, which bound its denoiser (`bounded`).
"""

from ddpm_jax.samplers import grids
from ddpm_jax.samplers.base import initial_noise
from ddpm_jax.samplers.bounded import bounded
from ddpm_jax.samplers.ddim import ddim as _ddim
from ddpm_jax.samplers.ddpm import ancestral as _ancestral
from ddpm_jax.samplers.dpm_solver import dpm_solver_pp as _dpm_solver_pp
from ddpm_jax.samplers.euler import edm_stochastic as _edm_stochastic
from ddpm_jax.samplers.euler import euler as _euler
from ddpm_jax.samplers.euler import euler_ancestral as _euler_ancestral
from ddpm_jax.samplers.euler import heun as _heun
from ddpm_jax.samplers.inpainting import repaint as _repaint
from ddpm_jax.samplers.inpainting import replacement
from ddpm_jax.samplers.langevin import langevin as _langevin
from ddpm_jax.samplers.ode import probability_flow as _probability_flow
from ddpm_jax.samplers.pndm import pndm as _pndm
from ddpm_jax.samplers.predictor_corrector import predictor_corrector as _predictor_corrector
from ddpm_jax.samplers.starts import interpolated_start, noised_start
from ddpm_jax.samplers.unipc import unipc as _unipc

ancestral = bounded(_ancestral)
ddim = bounded(_ddim)
dpm_solver_pp = bounded(_dpm_solver_pp)
edm_stochastic = bounded(_edm_stochastic)
euler = bounded(_euler)
euler_ancestral = bounded(_euler_ancestral)
heun = bounded(_heun)
langevin = bounded(_langevin)
pndm = bounded(_pndm)
predictor_corrector = bounded(_predictor_corrector)
probability_flow = bounded(_probability_flow)
repaint = bounded(_repaint)
unipc = bounded(_unipc)

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
    "pndm",
    "predictor_corrector",
    "probability_flow",
    "repaint",
    "replacement",
    "unipc",
]

"""Likelihood, three ways: the bound of a chain of steps, that of continuous time, and an ODE's.

Beside them stands the bound of a model with latents, `negative_elbo`, in nats.

Everything is in bits per dimension, [B]. Data that take few values (`levels`: 256 for 8-bit images)
have probabilities, not densities: they are scored by `discrete_vlb` with their levels, or, if the
model was trained on such data, after `dequantise`. `bits_per_cell` gives both one unit.
"""

from ddpm_jax.diffusion.likelihood.bounds import (
    MAX_LOG_SNR,
    Bound,
    continuous_vlb,
    discrete_vlb,
    first_time,
)
from ddpm_jax.diffusion.likelihood.flow import (
    Integrator,
    bits_per_cell,
    dequantise,
    probability_flow,
)
from ddpm_jax.diffusion.likelihood.latent import (
    LatentBound,
    importance_weighted,
    log_weights,
    negative_elbo,
)
from ddpm_jax.diffusion.likelihood.terms import check_levels, decoder_nll, prior_kl, vlb_term

__all__ = [
    "MAX_LOG_SNR",
    "Bound",
    "Integrator",
    "LatentBound",
    "bits_per_cell",
    "check_levels",
    "continuous_vlb",
    "decoder_nll",
    "dequantise",
    "discrete_vlb",
    "first_time",
    "importance_weighted",
    "log_weights",
    "negative_elbo",
    "prior_kl",
    "probability_flow",
    "vlb_term",
]

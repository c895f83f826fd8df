"""Training objectives: one number an example; the caller averages.

The lecture notes' two versions are both here. Version 1 predicts the posterior mean and may be
weighted by 1 / (2 sigma_i²); version 2 predicts the noise (Ho et al.'s L_simple, weight 1).
"""

from ddpm_jax.diffusion.losses.squared import (
    Network,
    Weight,
    error_weight,
    inverse_variance,
    mean_squared_error,
    score_matching,
    simple,
    weighted,
)
from ddpm_jax.diffusion.losses.variational import continuous_vlb, hybrid, vlb

__all__ = [
    "Network",
    "Weight",
    "continuous_vlb",
    "error_weight",
    "hybrid",
    "inverse_variance",
    "mean_squared_error",
    "score_matching",
    "simple",
    "vlb",
    "weighted",
]

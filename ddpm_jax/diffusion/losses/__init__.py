"""Training objectives: one number an example; the caller averages.

The lecture notes' two versions are both here. Version 1 predicts the posterior mean and may be
weighted by 1 / (2 sigma_i²); version 2 predicts the noise (Ho et al.'s L_simple, weight 1).
What compares the rows of a batch with each other stands in `contrastive`, games of two sides in
`adversarial`.
"""

from ddpm_jax.diffusion.losses import adversarial, views
from ddpm_jax.diffusion.losses.contrastive import at_most, clip_loss, hardest, triplet
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
    "adversarial",
    "at_most",
    "clip_loss",
    "continuous_vlb",
    "error_weight",
    "hardest",
    "hybrid",
    "inverse_variance",
    "mean_squared_error",
    "score_matching",
    "simple",
    "triplet",
    "views",
    "vlb",
    "weighted",
]

"""Guidance: functions from a Denoiser to a Denoiser, freely composed.

Guided sampling at a scale w above 1 does not sample p(x) p(y | x)^w: the noised density of that
product is not the product of the noised densities. The guided samples lie closer together, and the
difference is largest where classes overlap.
"""

from ddpm_jax.diffusion.guidance.bounding import bounded_x0, clip_x0, map_x0, threshold_x0
from ddpm_jax.diffusion.guidance.classifier import (
    Gradient,
    LogProb,
    class_log_prob,
    classifier,
    gradient,
)
from ddpm_jax.diffusion.guidance.classifier_free import (
    Scale,
    classifier_free,
    classifier_free_network,
    composed,
    composed_network,
    only_branch,
    within,
)
from ddpm_jax.diffusion.guidance.clip import by_estimate, clip_log_prob, of_estimate
from ddpm_jax.diffusion.guidance.observation import average_pool, grey, masked, observed

__all__ = [
    "Gradient",
    "LogProb",
    "Scale",
    "average_pool",
    "bounded_x0",
    "by_estimate",
    "class_log_prob",
    "classifier",
    "classifier_free",
    "classifier_free_network",
    "clip_log_prob",
    "clip_x0",
    "composed",
    "composed_network",
    "gradient",
    "grey",
    "map_x0",
    "masked",
    "observed",
    "of_estimate",
    "only_branch",
    "threshold_x0",
    "within",
]

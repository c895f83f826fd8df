"""What an encoder knows of a latent: a normal distribution, each dimension by itself."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.likelihood.terms import exp_above_its_tangent, sum_of_dimensions

# LDM's bounds of the log variance: beyond them an encoder's exponential would overflow.
LOWEST, HIGHEST = -30.0, 20.0


class Posterior(NamedTuple):
    """q(z | x) = N(mean, exp(log_variance)), each dimension by itself.

    Attributes:
      mean: [B, ...].
      log_variance: the shape of mean.
    """

    mean: jax.Array
    log_variance: jax.Array


def of_moments(moments: jax.Array) -> Posterior:
    """The posterior whose mean and log variance are the two halves of the channels.

    Args:
      moments: [B, ..., 2 C]; the log variance is kept in [-30, 20].

    Raises:
      ValueError: for an odd number of channels.

    Source: Rombach et al. 2022, their code's DiagonalGaussianDistribution.
    """
    if moments.shape[-1] % 2:
        raise ValueError(f"need an even number of channels, got {moments.shape[-1]}")
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return Posterior(mean, jnp.clip(log_variance, LOWEST, HIGHEST))


def sample(posterior: Posterior, eps: jax.Array) -> jax.Array:
    """z = mean + std eps, through which a gradient reaches both (Kingma & Welling 2014).

    Args:
      posterior: of shape [B, ...].
      eps: N(0, I), of that shape.
    """
    return posterior.mean + jnp.exp(0.5 * posterior.log_variance) * eps


def kl_by_dimension(posterior: Posterior) -> jax.Array:
    """KL(q(z | x) || N(0, 1)) of each dimension in nats, the shape of the mean.

    Source: Kingma & Welling 2014, appendix B.
    """
    mean, log_variance = posterior
    return 0.5 * (mean**2 + exp_above_its_tangent(log_variance))


def kl(posterior: Posterior) -> jax.Array:
    """KL(q(z | x) || N(0, I)) in nats, [B]."""
    return sum_of_dimensions(kl_by_dimension(posterior))


def log_density(posterior: Posterior, z: jax.Array) -> jax.Array:
    """log q(z | x) in nats, [B].

    Args:
      posterior: of shape [B, ...].
      z: of that shape.
    """
    mean, log_variance = posterior
    error = (z - mean) * jnp.exp(-0.5 * log_variance)
    return -0.5 * sum_of_dimensions(error**2 + log_variance + math.log(2 * math.pi))

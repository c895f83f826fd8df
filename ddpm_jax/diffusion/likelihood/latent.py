"""The bound of a model with latents, from one draw of them or from several."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.likelihood import posteriors
from ddpm_jax.diffusion.likelihood.posteriors import Posterior
from ddpm_jax.diffusion.likelihood.terms import decoder_nll, sum_of_dimensions


class LatentBound(NamedTuple):
    """-ELBO and its two terms, [B] each, summed over dimensions, in nats.

    Attributes:
      reconstruction: -log p(x | z) of the z that was drawn.
      kl: KL(q(z | x) || N(0, I)).
    """

    reconstruction: jax.Array
    kl: jax.Array

    @property
    def total(self) -> jax.Array:
        """An upper bound of -log p(x) in expectation over z, [B]."""
        return self.reconstruction + self.kl


def negative_elbo(
    x: jax.Array,
    mean: jax.Array,
    log_variance: jax.Array,
    posterior: Posterior,
    levels: int | None = None,
) -> LatentBound:
    """E_q[-log p(x | z)] + KL(q(z | x) || N(0, I)), the first term of one draw of z.

    Args:
      x: the data, [B, ...], in [-1, 1] if they have levels.
      mean: the decoder's at the z that was drawn from the posterior, the shape of x.
      log_variance: the decoder's, broadcast against x.
      posterior: q(z | x), [B, ...].
      levels: the number of equidistant values in [-1, 1] that x takes, for probabilities; None for
        the density.

    Raises:
      ValueError: for fewer than 2 levels.

    Source: Kingma & Welling 2014, equation 3.
    """
    log_variance = jnp.broadcast_to(log_variance, x.shape)
    nll = sum_of_dimensions(decoder_nll(x, mean, log_variance, levels))
    return LatentBound(nll, posteriors.kl(posterior))


def log_weights(nll: jax.Array, posterior: Posterior, z: jax.Array) -> jax.Array:
    """log p(x, z) / q(z | x) of each z, in nats.

    Args:
      nll: -log p(x | z), summed over dimensions, [B].
      posterior: q(z | x), [B, ...].
      z: drawn from it, the same shape.

    Returns:
      [B].
    """
    prior = -0.5 * sum_of_dimensions(z**2 + math.log(2 * math.pi))
    return prior - nll - posteriors.log_density(posterior, z)


def importance_weighted(log_weights: jax.Array) -> jax.Array:
    """log of the mean weight: a lower bound of log p(x) in expectation, tighter for each more draw.

    Args:
      log_weights: of k independent draws of z, [k, B].

    Returns:
      [B], in nats.

    Source: Burda et al. 2016, equation 8 and theorem 1.
    """
    return jax.nn.logsumexp(log_weights, axis=0) - math.log(len(log_weights))

"""Likelihood: the terms of the variational bound."""

from ddpm_jax.diffusion.likelihood.terms import decoder_nll, prior_kl, vlb_term

__all__ = ["decoder_nll", "prior_kl", "vlb_term"]

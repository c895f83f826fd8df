"""Training an autoencoder: images through their latents, and what the latents are held to."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import likelihood
from ddpm_jax.diffusion.likelihood import posteriors
from ddpm_jax.diffusion.likelihood.terms import sum_of_dimensions
from ddpm_jax.training.objectives.base import (
    Batch,
    Extra,
    Objective,
    Outcome,
    dropout_key,
    keep,
    places,
)

LABEL = "label"
LOOKS = "perceptual"  # the frozen tree that tells how different two images look
# (x_0 [B, ...], the decoder's mean, its log variance) -> [B], a sum over dimensions
Distance = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def of_likelihood(levels: int | None) -> Distance:
    """-log p(x | z) of the decoder's normal law, in nats; of pixels of so many levels.

    Args:
      levels: as in `likelihood.decoder_nll`; None for the density.
    """

    def distance(x: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
        return sum_of_dimensions(likelihood.decoder_nll(x, mean, log_variance, levels))

    return distance


def absolute(x: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """|x - mean|, LDM's."""
    return sum_of_dimensions(jnp.abs(x - mean))


def squared(x: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """(x - mean)²."""
    return sum_of_dimensions((x - mean) ** 2)


class Through(NamedTuple):
    """An image that went through its latents.

    Attributes:
      mean, log_variance: of the decoder.
      bottleneck: [B], what holds the latents: a divergence in nats, or the loss of a codebook.
    """

    mean: jax.Array
    log_variance: jax.Array
    bottleneck: jax.Array


class Autoencoding(NamedTuple):
    """How images go through their latents, and what it costs.

    Attributes:
      through: (params, x_0 [B, ...], eps [B, *latent_shape], train, rngs) -> Through; with the
        keyword label int [B] where its decoder is told a class.
      latent_shape: (h, w, C) of the latents of one image.
      distance: one of this module's.
      weight: of the bottleneck.
      per_dimension: whether the bottleneck's term is a sum over latents, divided by D, the
        dimensions of an image, as the distance is; False for a mean.
      looks: (the frozen tree LOOKS, x_0, the decoder's mean) -> [B], how different they look; None
        where that does not count.
      looks_weight: of it.
      told_label: whether the decoder is told a class.
    """

    through: Callable[..., Through]
    latent_shape: tuple[int, ...]
    distance: Distance
    weight: float = 1.0
    per_dimension: bool = True
    looks: Callable[[Any, jax.Array, jax.Array], jax.Array] | None = None
    looks_weight: float = 1.0
    told_label: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """The frozen trees that `apart` is given."""
        return () if self.looks is None else (LOOKS,)

    def noise(self, batch: Batch, key: jax.Array) -> jax.Array:
        """eps of each row, of the key and its place in the batch alone."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places(batch))
        return jax.vmap(lambda k: jax.random.normal(k, self.latent_shape))(keys)

    def made(self, params: Any, batch: Batch, key: jax.Array, train: bool) -> Through:
        """The batch's images behind their latents."""
        key_noise, key_dropout = jax.random.split(key)
        rngs = {"dropout": dropout_key(key_dropout, batch)} if train else None
        told = {LABEL: batch[LABEL]} if self.told_label else {}
        eps = self.noise(batch, key_noise)
        return self.through(params, batch["x0"], eps, train, rngs, **told)

    def apart(self, x0: jax.Array, made: Through, trees: Mapping[str, Any]) -> jax.Array:
        """The distance of each image from its reconstruction, over D, and how it looks, [B]."""
        apart = self.distance(x0, made.mean, made.log_variance) / _dimensions(x0)
        if self.looks is None:
            return apart
        return apart + self.looks_weight * self.looks(trees[LOOKS], x0, made.mean)

    def held(self, x0: jax.Array, made: Through) -> jax.Array:
        """What the latents of each cost, [B]."""
        return self.weight * made.bottleneck / (_dimensions(x0) if self.per_dimension else 1)


def autoencode(way: Autoencoding) -> Objective:
    """The distance of an image from what its latents give back, and what the latents cost.

    Of a VAE with its likelihood and a weight of 1 this is -ELBO / D in nats (Kingma & Welling
    2014); another weight is beta of Higgins et al. 2017.
    """

    def draws(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Any:
        return {"eps": way.noise(batch, jax.random.split(key)[0])}

    def outcome(
        params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra, **trees: Any
    ) -> Outcome:
        made = way.made(params, batch, key, train)
        loss = way.apart(batch["x0"], made, trees) + way.held(batch["x0"], made)
        return Outcome(loss, jnp.zeros_like(loss), jnp.ones_like(loss), extra)

    return Objective(outcome, remember=keep, draws=draws, needs=way.needs)


def _dimensions(x0: jax.Array) -> int:
    return x0.size // len(x0)


def plain(apply: Callable[..., Any]) -> Callable[..., Through]:
    """Latents without chance that nothing holds."""

    def through(
        params: Any, x0: jax.Array, eps: jax.Array, train: bool, rngs: Any, **told: jax.Array
    ) -> Through:
        variables = {"params": params}
        latents = apply(variables, x0, train=train, method="encode", rngs=rngs).latents
        decoded = apply(variables, latents, train=train, method="decode", rngs=rngs, **told)
        return Through(decoded.mean, decoded.log_variance, jnp.zeros(len(x0), decoded.mean.dtype))

    return through


def normal(apply: Callable[..., Any]) -> Callable[..., Through]:
    """Latents drawn from their posterior, held by its divergence from N(0, I)."""

    def through(
        params: Any, x0: jax.Array, eps: jax.Array, train: bool, rngs: Any, **told: jax.Array
    ) -> Through:
        variables = {"params": params}
        posterior = apply(variables, x0, train=train, method="encode", rngs=rngs).posterior
        latents = posteriors.sample(posterior, eps)
        decoded = apply(variables, latents, train=train, method="decode", rngs=rngs, **told)
        return Through(decoded.mean, decoded.log_variance, posteriors.kl(posterior))

    return through


def quantised(apply: Callable[..., Any], **options: Any) -> Callable[..., Through]:
    """Latents that are the nearest codes.

    Args:
      apply: of the network.
      **options: of `quantisation.quantise`.
    """

    def through(
        params: Any, x0: jax.Array, eps: jax.Array, train: bool, rngs: Any, **told: jax.Array
    ) -> Through:
        variables = {"params": params}
        latents = apply(variables, x0, train=train, method="encode", rngs=rngs).latents
        codes = apply(variables, latents, method="quantise", **options)
        decoded = apply(variables, codes.vectors, train=train, method="decode", rngs=rngs, **told)
        return Through(decoded.mean, decoded.log_variance, codes.loss)

    return through

"""A trained autoencoder: images to latents, and back."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import streams
from ddpm_jax.build import autoencoding, coding, objectives
from ddpm_jax.build.clips import by_batches
from ddpm_jax.diffusion import likelihood
from ddpm_jax.diffusion.likelihood import posteriors
from ddpm_jax.errors import UserError
from ddpm_jax.models.autoencoder import NORMAL, QUANTISED
from ddpm_jax.runtime import compiling
from ddpm_jax.trained.batches import batches
from ddpm_jax.trained.from_noise import LoadedFromNoise
from ddpm_jax.trained.kept import kept, key_of

BATCH_SIZE = 64


class Bits(NamedTuple):
    """A bound of -log2 p(x) of each image, in bits per dimension, float64 [N] each.

    Attributes:
      reconstruction, kl: the terms of the bound from one draw of latents.
      importance_weighted: the bound from several draws.
    """

    reconstruction: np.ndarray
    kl: np.ndarray
    importance_weighted: np.ndarray


class LoadedAutoencoder(LoadedFromNoise):
    """A trained autoencoder: `load(workdir).reconstruct(images)`; a VAE's `sample(16)`."""

    def encode(self, images: np.ndarray) -> np.ndarray:
        """The latents of images without chance, float32 [N, h, w, C].

        Of a normal law its mean; of a codebook the vectors before they are quantised.

        Args:
          images: uint8 [N, H, W, C], 0 to 255, as samples are drawn.

        Raises:
          UserError: for images of another size or type, or none.
        """
        return self.encode_encoded(self._encoded(images))

    def encode_encoded(self, x0: np.ndarray) -> np.ndarray:
        """The same of images as the network sees them, float32 [N, H, W, C] in [-1, 1]."""
        return self._by_batches("latents", _latents, x0)

    def decode(self, latents: np.ndarray, labels: Sequence[int | str] = ()) -> np.ndarray:
        """Images of latents, uint8 [N, H, W, C]; of a codebook those of the nearest codes.

        Args:
          latents: floats [N, h, w, C], as `encode` gives them.
          labels: the class of each, cycled, of an autoencoder that is told one; as of `sample`.

        Raises:
          UserError: for latents of another size, or none; labels where there are no classes, or
            none where there are.
        """
        latents, shape = np.asarray(latents, np.float32), self.latent_shape
        if latents.shape[1:] != shape or not len(latents):
            raise UserError(
                f"need latents [N, {', '.join(map(str, shape))}], at least one, got "
                f"{list(latents.shape)}"
            )
        told = self._labels_of(len(latents), labels)
        return self.experiment.codec.decode(self._by_batches("images", _images, latents, told))

    def reconstruct(self, images: np.ndarray, labels: Sequence[int | str] = ()) -> np.ndarray:
        """What is left of images after they went through their latents, uint8 [N, H, W, C].

        Args:
          images: as of `encode`.
          labels: as of `decode`.
        """
        return self.decode(self.encode(images), labels)

    def codes(self, images: np.ndarray) -> np.ndarray:
        """Which codes the latents of images become, int32 [N, h, w].

        Raises:
          UserError: as `encode`, or for an autoencoder without a codebook.
        """
        return self.codes_encoded(self._encoded(images))

    def codes_encoded(self, x0: np.ndarray) -> np.ndarray:
        """The same of images as the network sees them."""
        self._check_bottleneck(QUANTISED, "codes")
        return self._by_batches("codes", _codes, x0)

    def kl_encoded(self, x0: np.ndarray) -> np.ndarray:
        """KL(q(z | x) || N(0, 1)) of each dimension of the latents in nats, float32 [N, h, w, C].

        Args:
          x0: images as the network sees them.

        Raises:
          UserError: for an autoencoder whose latents have no law.
        """
        self._check_bottleneck(NORMAL, "a divergence")
        return self._by_batches("kl", _kl, x0)

    def bits_encoded(
        self,
        x0: np.ndarray,
        labels: Sequence[int | str] = (),
        *,
        seed: int = 0,
        num_draws: int = 16,
    ) -> Bits:
        """A bound of the bits of each image, and the tighter one of several draws of latents.

        Of an image whose class is told they are those of the image given its class.

        A decoder that was trained on dequantised pixels is a density of pixels spread over their
        cells, which are drawn once for each image; another one gives probabilities of values.

        Args:
          x0: images as the network sees them.
          labels: as of `decode`.
          seed: image k depends on (seed, k) alone.
          num_draws: of the importance-weighted bound.

        Raises:
          UserError: for an autoencoder that has no likelihood; as `decode` for labels.
        """
        self._check_bottleneck(NORMAL, "a likelihood")
        c, own = self.experiment.config, self.experiment.own
        if c.objective.distance != "likelihood":
            raise UserError(
                f"this autoencoder was trained by objective.distance={c.objective.distance}, which "
                "says nothing about likelihood; train one with likelihood"
            )
        levels = objectives.pixel_levels(c, own)
        score = self._compiled(f"bits {num_draws}", lambda m: _scored(m, c, own, levels, num_draws))
        key, found = jax.random.key(seed), []
        told = self._labels_of(len(x0), labels)
        for rows, some in batches(x0, min(BATCH_SIZE, len(x0))):
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
            label = None if told is None else told[np.minimum(rows, len(x0) - 1)]
            each = np.stack(score(self.params, some, keys, label), axis=-1).astype(np.float64)
            found.append(each[: len(x0) - rows[0]])
        per_bit = np.log(2) * x0[0].size
        shift = float(likelihood.bits_per_cell(jnp.zeros(()), levels)) if c.data.dequantise else 0
        nll, kl, weighted = (np.concatenate(found) / per_bit).T
        return Bits(nll + shift, kl, weighted + shift)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, C) of the latents of one image, as `encode` gives them."""
        return autoencoding.latent_shape(self.experiment.config)

    def _encoded(self, images: np.ndarray) -> np.ndarray:
        x0 = coding.encoded(self.experiment.codec, self.experiment.image_shape, images)
        if not len(x0):
            raise UserError("need at least one image, got none")
        return x0

    def _labels_of(self, num: int, labels: Sequence[int | str]) -> np.ndarray | None:
        """The class of each, int32 [num]; None where the decoder is told none."""
        classes = self.experiment.config.model.num_classes
        if classes and not len(labels):
            raise UserError(
                f"this autoencoder is told one of {classes} classes: give the label of each image"
            )
        told = self.labels(num, labels)  # which refuses labels that there are not
        return told if classes else None

    def _check_bottleneck(self, need: str, what: str) -> None:
        have = self.experiment.config.model.bottleneck
        if have != need:
            raise UserError(
                f"this autoencoder has no {what.removeprefix('a ')}: config.model.bottleneck is "
                f"{have}, and {what} is of a {need} one"
            )

    def _compiled(self, name: str, make: Callable[[Any], Any]) -> Any:
        key = ("autoencoder", name, *key_of(self.experiment))
        return kept(self.experiment, key, lambda: compiling.jit(make(self.model)))

    def _by_batches(
        self, name: str, make: Callable[[Any], Any], *arrays: np.ndarray | None
    ) -> np.ndarray:
        compiled = self._compiled(name, make)

        def of_rows(params: Any, places: jax.Array) -> jax.Array:
            rows = np.asarray(places)
            made: jax.Array = compiled(params, *(None if a is None else a[rows] for a in arrays))
            return made

        num = 0 if arrays[0] is None else len(arrays[0])
        return by_batches(of_rows, self.params, np.arange(num))


def _latents(model: Any) -> Callable[[Any, jax.Array], jax.Array]:
    return lambda params, x0: model.apply({"params": params}, x0, method="encode").latents


def _images(model: Any) -> Callable[[Any, jax.Array, jax.Array | None], jax.Array]:
    def images(params: Any, latents: jax.Array, label: jax.Array | None) -> jax.Array:
        if model.bottleneck == QUANTISED:
            latents = model.apply({"params": params}, latents, method="quantise").vectors
        return model.apply({"params": params}, latents, label, method="decode").mean

    return images


def _codes(model: Any) -> Callable[[Any, jax.Array], jax.Array]:
    def codes(params: Any, x0: jax.Array) -> jax.Array:
        latents = model.apply({"params": params}, x0, method="encode").latents
        return model.apply({"params": params}, latents, method="quantise").indices

    return codes


def _kl(model: Any) -> Callable[[Any, jax.Array], jax.Array]:
    def divergence(params: Any, x0: jax.Array) -> jax.Array:
        posterior = model.apply({"params": params}, x0, method="encode").posterior
        return posteriors.kl_by_dimension(posterior)

    return divergence


def _scored(model: Any, c: Any, own: Any, levels: int, num_draws: int) -> Callable[..., Any]:
    """(params, x_0, keys [B], label) -> -log p(x | z), KL, the tighter bound, [B] each in nats."""
    of_values = objectives.data_levels(c, own)

    def score(
        params: Any, x0: jax.Array, keys: jax.Array, label: jax.Array | None
    ) -> tuple[jax.Array, ...]:
        if of_values is None:
            x0 = likelihood.dequantise(streams.fold(keys, streams.CELLS), x0, levels)
        posterior = model.apply({"params": params}, x0, method="encode").posterior

        def of_draw(number: jax.Array) -> tuple[jax.Array, jax.Array]:
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            eps = jax.vmap(lambda k: jax.random.normal(k, posterior.mean.shape[1:]))(own)
            z = posteriors.sample(posterior, eps)
            mean, log_variance = model.apply({"params": params}, z, label, method="decode")
            bound = likelihood.negative_elbo(x0, mean, log_variance, posterior, of_values)
            return bound.reconstruction, likelihood.log_weights(bound.reconstruction, posterior, z)

        nll, weights = jax.lax.map(of_draw, jnp.arange(num_draws))
        return nll[0], posteriors.kl(posterior), -likelihood.importance_weighted(weights)

    return score

"""Vector quantisation: each vector becomes the nearest of a codebook."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Quantised(NamedTuple):
    """Vectors and the codes that they became.

    Attributes:
      vectors: [..., D], codes; gradients pass through to what was quantised.
      indices: of the codes, int32 [...].
      loss: what pulls codes and vectors together, [B] means over everything but the first axis.
    """

    vectors: jax.Array
    indices: jax.Array
    loss: jax.Array


def nearest(codebook: jax.Array, vectors: jax.Array) -> jax.Array:
    """The index of the nearest code, by squared distance; of several the first.

    Args:
      codebook: [K, D].
      vectors: [..., D].

    Returns:
      int32 [...].
    """
    flat = vectors.reshape(-1, vectors.shape[-1])
    precision = jax.lax.Precision.HIGHEST
    products = jnp.einsum("nd,kd->nk", flat, codebook, precision=precision)
    distances = (codebook**2).sum(axis=1)[None, :] - 2 * products
    return jnp.argmin(distances, axis=1).astype(jnp.int32).reshape(vectors.shape[:-1])


def quantise(
    codebook: jax.Array,
    vectors: jax.Array,
    *,
    commitment: float = 0.25,
    legacy: bool = True,
    moves_codes: bool = True,
) -> Quantised:
    """The nearest codes, with a straight-through gradient, and the loss beside it.

    The loss is |sg(z) - e|² + commitment |z - sg(e)|², means over dimensions, sg stopping a
    gradient. VQGAN's code has the factor on the other term; published weights were trained so.

    Args:
      codebook: [K, D].
      vectors: z, [B, ..., D].
      commitment: the factor, at least 0.
      legacy: whether the factor stands on the term that moves the codes, as in VQGAN's code.
      moves_codes: False for codes that are moving averages, which no gradient moves.

    Source: van den Oord et al. 2017, equation 3; Esser et al. 2021.
    """
    indices = nearest(codebook, vectors)
    codes = codebook[indices]
    stop = jax.lax.stop_gradient
    axes = tuple(range(1, vectors.ndim))
    of_codes = ((codes - stop(vectors)) ** 2).mean(axis=axes) * moves_codes
    of_vectors = ((vectors - stop(codes)) ** 2).mean(axis=axes)
    loss = commitment * of_codes + of_vectors if legacy else of_codes + commitment * of_vectors
    return Quantised(vectors + stop(codes - vectors), indices, loss)


class Averages(NamedTuple):
    """Moving averages of what became each code.

    Attributes:
      counts: of vectors, [K].
      sums: of vectors, [K, D].
    """

    counts: jax.Array
    sums: jax.Array


def first_averages(codebook: jax.Array) -> Averages:
    """Those of a codebook before the first step: one vector each, the code itself."""
    return Averages(jnp.ones(len(codebook), codebook.dtype), codebook)


def averaged(
    averages: Averages,
    codebook: jax.Array,
    vectors: jax.Array,
    indices: jax.Array,
    *,
    decay: float = 0.99,
    smoothing: float = 1e-5,
) -> tuple[Averages, jax.Array]:
    """The averages after a step, and the codes that follow: mean vectors.

    With a decay of 0 and no smoothing the codes are the means of their vectors, a step of Lloyd's
    algorithm. A code that no vector ever became stays where it is.

    Args:
      averages: before the step.
      codebook: before it, [K, D].
      vectors: [..., D].
      indices: which code each became, [...].
      decay: in [0, 1).
      smoothing: added to each count, as Laplace's, so that no code has none.

    Raises:
      ValueError: for a decay or smoothing out of range.

    Source: van den Oord et al. 2017, appendix A.1.
    """
    if not 0 <= decay < 1 or smoothing < 0:
        raise ValueError(f"need decay in [0, 1) and smoothing >= 0, got {decay=}, {smoothing=}")
    num = len(codebook)
    one_hot = jax.nn.one_hot(indices.reshape(-1), num, dtype=codebook.dtype)
    flat = vectors.reshape(-1, vectors.shape[-1])
    sums = jnp.einsum("nk,nd->kd", one_hot, flat, precision=jax.lax.Precision.HIGHEST)
    counts = decay * averages.counts + (1 - decay) * one_hot.sum(axis=0)
    sums = decay * averages.sums + (1 - decay) * sums
    total = counts.sum()
    smoothed = (counts + smoothing) / (total + num * smoothing) * total
    used = (smoothed > 0)[:, None]
    codes = jnp.where(used, sums / jnp.where(used, smoothed[:, None], 1), codebook)
    return Averages(counts, sums), codes


def perplexity(counts: jax.Array) -> jax.Array:
    """exp of the entropy of how often codes were used: K if all alike, 1 if one was.

    Args:
      counts: of vectors that became each code, [K].
    """
    shares = counts / jnp.maximum(counts.sum(), 1)
    return jnp.exp(jax.scipy.special.entr(shares).sum())

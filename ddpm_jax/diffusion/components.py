"""Vectors as sequences of tokens: their principal components, the largest first, in bins."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


class Components(NamedTuple):
    """The principal components of vectors, and the bins of each.

    Attributes:
      mean: of the vectors, [D].
      directions: K of them, orthonormal, in the order of descending variance, [K, D].
      edges: between the V bins of each, ascending, [K, V - 1].
      centres: what each bin stands for, [K, V].
    """

    mean: Array
    directions: Array
    edges: Array
    centres: Array


def fit(vectors: np.ndarray, num: int, num_values: int) -> Components:
    """The components of vectors and bins that each hold as many of them, float32 on the host.

    Args:
      vectors: [N, D].
      num: K, how many components are kept.
      num_values: V, bins of each.

    Raises:
      ValueError: for fewer than V vectors, or more components than dimensions.

    Source: Ramesh et al. 2022 (unCLIP), section 2.2; they do not say how their bins lie.
    """
    count, dimensions = vectors.shape
    if not 1 <= num <= dimensions:
        raise ValueError(f"need 1 to {dimensions} components of {dimensions} dimensions, got {num}")
    if not 2 <= num_values <= count:
        raise ValueError(f"need 2 to {count} bins for {count} vectors, got {num_values}")
    centred = vectors.astype(np.float64)
    mean = centred.mean(axis=0)
    centred = centred - mean
    _, vectors_of = np.linalg.eigh(centred.T @ centred / count)
    directions = vectors_of[:, ::-1].T[:num]
    # A direction's sign is the eigensolver's whim.
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    directions = directions * np.sign(largest)
    scores = centred @ directions.T
    shares = np.arange(1, num_values) / num_values
    edges = np.quantile(scores, shares, axis=0).T
    centres = np.stack([_means(one, between) for one, between in zip(scores.T, edges, strict=True)])
    return Components(*(part.astype(np.float32) for part in (mean, directions, edges, centres)))


def tokens_of(components: Components, vectors: jax.Array) -> jax.Array:
    """The bin of each component of vectors [B, D], int32 [B, K]."""
    mean, directions, edges, _ = map(jnp.asarray, components)
    scores = (vectors - mean[None]) @ directions.T
    return (scores[..., None] >= edges[None]).sum(axis=-1).astype(jnp.int32)


def vectors_of(components: Components, tokens: jax.Array) -> jax.Array:
    """The vectors that tokens int [B, K] stand for, [B, D]."""
    mean, directions, _, centres = map(jnp.asarray, components)
    return mean[None] + centres[jnp.arange(tokens.shape[1])[None], tokens] @ directions


def _means(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The mean score of each bin; of one that holds none, between its edges."""
    bins = np.searchsorted(edges, scores, side="right")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    sums = np.bincount(bins, weights=scores, minlength=len(edges) + 1)
    outer = np.concatenate([edges[:1], edges, edges[-1:]])
    middles = (outer[:-1] + outer[1:]) / 2
    return np.where(counts > 0, sums / np.maximum(counts, 1), middles)

"""How well embeddings of images and texts find each other, and what classes they tell apart."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from ddpm_jax.evaluation import checks, intervals
from ddpm_jax.evaluation.intervals import Interval

KS = (1, 5, 10)
# Of the largest product: closer ones are ties. float32 embeddings of the same text differ by less.
TIE = 1e-5


class Retrieval(NamedTuple):
    """Recall at each k, both ways: texts found by images, and images found by texts."""

    texts: dict[int, Interval]
    images: dict[int, Interval]


def retrieval(
    image_embeds: np.ndarray,
    text_embeds: np.ndarray,
    *,
    image_ids: Sequence[int] | np.ndarray | None = None,
    text_ids: Sequence[int] | np.ndarray | None = None,
    ks: Sequence[int] = KS,
    seed: int = 0,
) -> Retrieval:
    """The share of queries among whose k nearest there is a right one, with intervals over queries.

    Nearness is the dot product. Ties are drawn from at random, in expectation: embeddings that are
    all alike find as much as chance does.

    Args:
      image_embeds: [N, D], of unit length.
      text_embeds: [M, D].
      image_ids, text_ids: [N] and [M]; a text is right for the images of its number, and so are
        texts that say the same. None for the place, where N = M.
      ks: from 1; more than there are to find counts as all of them.
      seed: of the groups of queries that the intervals leave out.

    Raises:
      ValueError: for embeddings of different widths, or that are not finite; numbers of another
        length, or of a query that nothing is right for; fewer than 4 queries either way.

    Source: Radford et al. 2021 (CLIP), table 13.
    """
    images = checks.features(image_embeds, "image_embeds")
    texts = checks.features(text_embeds, "text_embeds")
    checks.same_width(images, texts, "images and texts")
    of_images, of_texts = _ids(image_ids, images, "image_ids"), _ids(text_ids, texts, "text_ids")
    if (image_ids is None or text_ids is None) and len(images) != len(texts):
        raise ValueError(
            f"{len(images)} images and {len(texts)} texts do not pair by their places: give "
            "image_ids and text_ids"
        )
    if not ks or min(ks) < 1:
        raise ValueError(f"need ks of whole numbers from 1, got {ks}")
    texts_found = _hits(images, texts, of_images, of_texts, ks)
    images_found = _hits(texts, images, of_texts, of_images, ks)
    return Retrieval(
        {k: _share(hits, seed) for k, hits in zip(ks, texts_found, strict=True)},
        {k: _share(hits, seed) for k, hits in zip(ks, images_found, strict=True)},
    )


def class_embeds(prompts: np.ndarray) -> np.ndarray:
    """One embedding a class from those of its prompts: to unit length, the mean, to unit length.

    Args:
      prompts: [C, T, D], of C classes in T templates each.

    Returns:
      [C, D], float64.

    Raises:
      ValueError: for another shape, or what has no length.

    Source: Radford et al. 2021 (CLIP), section 3.1.4.
    """
    prompts = np.asarray(prompts, np.float64)
    if prompts.ndim != 3 or 0 in prompts.shape:
        raise ValueError(f"need prompts [classes, templates, D], got {prompts.shape}")
    return _unit(_unit(prompts).mean(axis=1))


def zero_shot_accuracy(
    image_embeds: np.ndarray, classes: np.ndarray, labels: np.ndarray, *, seed: int = 0
) -> Interval:
    """The share of images whose nearest class embedding is that of their label; ties as above.

    Args:
      image_embeds: [N, D].
      classes: [C, D], of `class_embeds`.
      labels: int [N], in [0, C).
      seed: of the groups of images that the interval leaves out.

    Raises:
      ValueError: for embeddings of different widths, labels out of range or of another number, or
        fewer than 4 images.
    """
    images = checks.features(image_embeds, "image_embeds")
    classes = checks.features(classes, "classes")
    checks.same_width(images, classes, "images and classes")
    labels = np.asarray(labels)
    if labels.shape != (len(images),) or labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"need {len(images)} labels in [0, {len(classes)})")
    (hits,) = _hits(images, classes, labels, np.arange(len(classes)), (1,))
    return _share(hits, seed)


def _hits(
    queries: np.ndarray, found: np.ndarray, own: np.ndarray, theirs: np.ndarray, ks: Sequence[int]
) -> np.ndarray:
    """The probability that a right one is among the k nearest of each query, float64 [ks, N]."""
    hits = np.empty((len(ks), len(queries)))
    wide = found.astype(np.float64).T
    for rows in checks.blocks(queries, max(1, checks.BLOCK_BYTES // (8 * len(found)))):
        products = queries[rows].astype(np.float64) @ wide
        right = own[rows, None] == theirs[None]
        if not right.any(axis=1).all():
            query = int(np.argmin(right.any(axis=1))) + rows.start
            raise ValueError(f"nothing is right for query {query}, of number {own[query]}")
        best = np.where(right, products, -np.inf).max(axis=1, keepdims=True)
        slack = TIE * np.abs(products).max(axis=1, keepdims=True)
        tied = np.abs(products - best) <= slack
        nearer = ((products > best) & ~tied).sum(axis=1)
        for number, k in enumerate(ks):
            hits[number, rows] = _drawn(tied.sum(axis=1), (tied & right).sum(axis=1), k - nearer)
    return hits


def _drawn(tied: np.ndarray, right: np.ndarray, places: np.ndarray) -> np.ndarray:
    """That one of the right is among `places` drawn of the tied: 1 less the hypergeometric's 0."""
    places = np.clip(places, 0, tied)
    wrong = tied - right
    some = places <= wrong  # with more places than wrong ones, a right one is certain
    left = np.where(some, wrong - places, 0)

    def log_ways(n: np.ndarray, k: np.ndarray) -> np.ndarray:
        return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)

    drawn = np.where(some, places, 0)
    none = np.exp(log_ways(left + drawn, drawn) - log_ways(tied, drawn))
    return np.where(some, 1 - none, 1.0)


def _share(hits: np.ndarray, seed: int) -> Interval:
    """The mean of hits in [0, 1], and its interval over groups of queries."""
    count = min(intervals.NUM_GROUPS, len(hits) // 2)
    group = intervals.groups(len(hits), count, seed)
    left_out = [float(hits[group != k].mean()) for k in range(count)]
    return intervals.jackknife_share(float(np.clip(hits.mean(), 0, 1)), left_out, len(hits))


def _ids(ids: Sequence[int] | np.ndarray | None, rows: np.ndarray, name: str) -> np.ndarray:
    if ids is None:
        return np.arange(len(rows))
    numbers = np.asarray(ids)
    if numbers.shape != (len(rows),):
        raise ValueError(f"need {len(rows)} {name}, got shape {numbers.shape}")
    return numbers


def _unit(x: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    if not (np.isfinite(length) & (length > 0)).all():
        raise ValueError("an embedding of length 0, or that is not finite, has no direction")
    return x / length

"""Mean and covariance of features that come in batches, in float64, whatever their number.

>>> moments = zero(2048)
>>> for batch in batches:
...     moments = update(moments, batch)
>>> covariance(moments)
"""

from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation import checks


class Moments(NamedTuple):
    """How many rows there were, their mean, and the sum of the squares around it."""

    num: int
    mean: np.ndarray  # float64 [D]
    scatter: np.ndarray  # float64 [D, D], sum over rows of (x - mean)(x - mean)^T


class Statistics(NamedTuple):
    """Mean and covariance, as reference files hold them; how many rows if they tell it."""

    mean: np.ndarray  # float64 [D]
    covariance: np.ndarray  # float64 [D, D]
    num: int | None = None


def zero(num_dimensions: int) -> Moments:
    """The moments of nothing, to `update`."""
    if num_dimensions < 1:
        raise ValueError(f"need num_dimensions >= 1, got {num_dimensions=}")
    return Moments(0, np.zeros(num_dimensions), np.zeros((num_dimensions, num_dimensions)))


def of(features: np.ndarray) -> Moments:
    """The moments of features that are all there, [N, D]. Raises as `update`."""
    features = checks.features(features)
    return update(zero(features.shape[1]), features)


def update(moments: Moments, features: np.ndarray) -> Moments:
    """The moments of what was there before and these rows.

    Batches, their order and the number of shards change the result by rounding alone, about 1e-12.
    Each block is centred by its own mean first, so a mean far from 0 costs no digits.

    Args:
      moments: of the rows so far.
      features: [N, D], real and finite.

    Raises:
      ValueError: for features that are not finite (it names the row), or of another width.

    Source: Chan, Golub and LeVeque 1979, equations 2.1.
    """
    features = checks.features(features)
    checks.same_width(moments.mean, features, "moments and features")
    for rows in checks.blocks(features):
        block = features[rows].astype(np.float64)
        mean = block.mean(axis=0)
        block -= mean
        moments = merge(moments, Moments(len(block), mean, block.T @ block))
    return moments


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of both sets of rows together. Raises ValueError for another width."""
    checks.same_width(a.mean, b.mean, "moments")
    num = a.num + b.num
    if not num:
        return a
    delta = b.mean - a.mean
    scatter = np.outer(delta * (a.num * b.num / num), delta)
    scatter += a.scatter
    scatter += b.scatter
    return Moments(num, a.mean + delta * (b.num / num), scatter)


def remove(moments: Moments, part: Moments) -> Moments:
    """The moments of the rows without a part of them: the inverse of `merge`.

    Digits are lost where little remains: remove parts, not most of the whole.

    Raises:
      ValueError: for another width, or unless the part has fewer rows than the whole.
    """
    checks.same_width(moments.mean, part.mean, "moments")
    num = moments.num - part.num
    if num < 1:
        raise ValueError(f"cannot remove {part.num} rows of {moments.num}: some must remain")
    mean = moments.mean - (part.mean - moments.mean) * (part.num / num)
    delta = part.mean - mean
    scatter = np.outer(delta * (-num * part.num / moments.num), delta)
    scatter += moments.scatter
    scatter -= part.scatter
    return Moments(num, mean, scatter)


def covariance(moments: Moments) -> np.ndarray:
    """The unbiased covariance, float64 [D, D], divided by N - 1 as `np.cov` and every FID does.

    Raises:
      ValueError: for fewer than 2 rows.
    """
    if moments.num < 2:
        raise ValueError(f"a covariance needs at least 2 rows, got {moments.num}")
    return moments.scatter / (moments.num - 1)


def statistics(moments: Moments) -> Statistics:
    """Mean and covariance. Raises ValueError for fewer than 2 rows."""
    return Statistics(moments.mean, covariance(moments), moments.num)

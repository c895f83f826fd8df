"""The kernel (Inception) distance: unbiased, so few samples make it uncertain, but not wrong.

It is the squared maximum mean discrepancy under k(x, y) = (x.y / D + 1)^3. Around 0 for equal
distributions, on both sides.
"""

from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation import checks, intervals
from ddpm_jax.evaluation.intervals import Interval

SUBSETS, SUBSET_SIZE = 100, 1000
_ROWS = 1024  # of a block of kernel values


class KernelDistance(NamedTuple):
    """The mean over subsets, as the literature gives it."""

    value: float
    standard_error: float  # over subsets; they overlap, so other samples move the value further
    subsets: int
    subset_size: int


def kernel_distance(
    samples: np.ndarray,
    references: np.ndarray,
    *,
    subsets: int = SUBSETS,
    subset_size: int | None = None,
    seed: int = 0,
) -> KernelDistance:
    """KID: the mean of the unbiased estimate over random subsets, and its standard error.

    Args:
      samples, references: features [N, D] and [M, D].
      subsets: how many, at least 2.
      subset_size: drawn from each set without replacement; by default 1000, or all of the smaller
        set if that has fewer.
      seed: of the subsets.

    Raises:
      ValueError: for features that are not finite, different widths, fewer than 2 subsets, or a
        subset larger than a set.

    Source: Bińkowski et al. 2018, equation 4 and section 4.
    """
    samples, references = _pair(samples, references)
    least = min(len(samples), len(references))
    size = min(SUBSET_SIZE, least) if subset_size is None else subset_size
    if subsets < 2 or not 2 <= size <= least:
        raise ValueError(
            f"need subsets >= 2 and 2 <= subset_size <= {least}, the smaller set, got {subsets=}, "
            f"subset_size={size}: draw more samples, or lower subset_size"
        )
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        x = samples[rng.choice(len(samples), size, replace=False)]
        y = references[rng.choice(len(references), size, replace=False)]
        values.append(_within(x) + _within(y) - 2 * _total(x, y) / size**2)
    error = float(np.std(values, ddof=1) / np.sqrt(subsets))
    return KernelDistance(float(np.mean(values)), error, subsets, size)


def unbiased(
    samples: np.ndarray,
    references: np.ndarray,
    *,
    num_groups: int = intervals.NUM_GROUPS,
    seed: int = 0,
    level: float = intervals.LEVEL,
) -> Interval:
    """The unbiased estimate from all pairs at once, with its interval over samples.

    The interval is the delete-a-group jackknife's, the references held fixed. It takes (N + M)^2
    kernel values: a few seconds for 10,000 and 10,000 in 64 dimensions. Of Gaussian samples in 4 to
    64 dimensions (N = 150 and 400, 200 trials each), 95% intervals held the value at these
    references in 94% to 98% of trials; in one dimension, where distributions are equal, in 84%.

    Args:
      samples, references: features [N, D] and [M, D]; M >= 2.
      num_groups: of samples; at least 2 samples each.
      seed: of the groups.
      level: in (0, 1).

    Raises:
      ValueError: for features that are not finite, different widths, or too few rows.

    Source: Gretton et al. 2012, lemma 6, equation 3.
    """
    samples, references = _pair(samples, references)
    group = intervals.groups(len(samples), num_groups, seed)
    parts = [samples[np.flatnonzero(group == g)] for g in range(num_groups)]
    within = np.zeros((num_groups, num_groups))  # sums of the kernel between groups
    for a in range(num_groups):
        for b in range(a + 1):
            within[a, b] = within[b, a] = _total(parts[a], parts[b])
        within[a, a] -= _diagonal(parts[a])
    across = np.array([_total(part, references) for part in parts])
    sizes = np.array([len(part) for part in parts])
    number, of_references = len(references), _within(references)

    def estimate(kept: np.ndarray) -> float:
        n = sizes[kept].sum()
        own = within[np.ix_(kept, kept)].sum() / (n * (n - 1))
        return float(own + of_references - 2 * across[kept].sum() / (n * number))

    everyone = np.arange(num_groups)
    left_out = [estimate(np.delete(everyone, g)) for g in everyone]
    return intervals.jackknife(estimate(everyone), left_out, level=level)


def value(samples: np.ndarray, references: np.ndarray) -> float:
    """The unbiased estimate alone, of as few as 2 samples. As `unbiased`, without its interval."""
    samples, references = _pair(samples, references)
    across = _total(samples, references) / (len(samples) * len(references))
    return _within(samples) + _within(references) - 2 * across


def _pair(samples: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    samples = checks.features(samples, "samples", least=2)
    references = checks.features(references, "references", least=2)
    checks.same_width(samples, references)
    return samples, references


def _within(x: np.ndarray) -> float:
    """The mean of the kernel over all pairs of different rows."""
    return (_total(x, x) - _diagonal(x)) / (len(x) * (len(x) - 1))


def _total(x: np.ndarray, y: np.ndarray) -> float:
    """The sum of the kernel over all pairs."""
    total = 0.0
    for rows in checks.blocks(x, _ROWS):
        # Division and the 1 ride along in the product: two passes over all pairs less.
        left = np.hstack([x[rows].astype(np.float64) / x.shape[1], np.ones((len(x[rows]), 1))])
        for columns in checks.blocks(y, _ROWS):
            base = left @ np.hstack([y[columns], np.ones((len(y[columns]), 1))]).T
            total += float(np.vdot(base * base, base))  # ** 3 goes through pow, 30 times slower
    return total


def _diagonal(x: np.ndarray) -> float:
    """The sum of the kernel of each row with itself."""
    total = 0.0
    for rows in checks.blocks(x):
        norms = np.square(x[rows].astype(np.float64)).sum(axis=1)
        total += float(((norms / x.shape[1] + 1) ** 3).sum())
    return total

"""How sure a figure is: confidence intervals from repeats, resamples, and groups left out.

All are two-sided and say in `method` what they are over. Which fits which figure:

- repeats of a whole evaluation, each with its own seed: `student`;
- a mean over samples (accuracy, precision, distance to a neighbour): `bootstrap_mean`;
- what is not a mean, with a bias of order 1/N (the Fréchet distance): the delete-a-group
  jackknife. Over the bootstrap it has two advantages: it needs as many evaluations as there are
  groups, 20 instead of hundreds, and no sample stands twice in a set, which distances to the
  nearest samples would take for copies.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
NUM_GROUPS = 20


class Interval(NamedTuple):
    """A figure and what it may well be."""

    value: float
    low: float
    high: float
    standard_error: float
    method: str  # "bootstrap over samples, 95%"


def student(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean of independent repeats, and Student's interval of it.

    Args:
      values: of the repeats, at least 2.
      level: in (0, 1).

    Raises:
      ValueError: for fewer than 2 values, one that is not finite, or another level.

    Source: Student 1908. Exact for values that are normal.
    """
    repeats = np.asarray(values, np.float64)
    if repeats.ndim != 1 or len(repeats) < 2 or not np.isfinite(repeats).all():
        raise ValueError(f"need at least 2 finite values, got {list(values)}")
    error = repeats.std(ddof=1) / math.sqrt(len(repeats))
    return around(repeats.mean(), error, len(repeats) - 1, f"{len(repeats)} repeats", level)


def groups(num: int, num_groups: int = NUM_GROUPS, seed: int = 0) -> np.ndarray:
    """The group of each of num samples, int [num]: of equal size within 1, drawn at random.

    Samples often come in cycles of their labels, so that neighbours, or every tenth, are no
    random group.

    Raises:
      ValueError: for fewer than 2 groups, or fewer samples than 2 a group.
    """
    if num_groups < 2 or num < 2 * num_groups:
        raise ValueError(
            f"need num_groups >= 2 and 2 samples a group, got {num_groups=} and {num} samples; "
            "draw more samples, or ask for no interval"
        )
    return np.random.default_rng(seed).permutation(num) % num_groups


def jackknife(
    value: float,
    left_out: Sequence[float],
    *,
    correct: bool = False,
    level: float = LEVEL,
    over: str = "samples",
) -> Interval:
    """The interval of a figure from its values without each of the groups of `groups`.

    Args:
      value: of all samples.
      left_out: without the samples of each group, [G].
      correct: subtract the estimate of the bias, (G - 1)(mean of left_out - value), which is exact
        if the bias is c / N. The interval is then of the limit of many samples; otherwise of what
        as many samples give on average.
      level: in (0, 1).
      over: what was left out, for `method`.

    Raises:
      ValueError: for fewer than 2 groups, values that are not finite, or another level.

    Source: Quenouille 1956 (bias), Tukey 1958 (error); by groups, Kott 2001.
    """
    parts = np.asarray(left_out, np.float64)
    if parts.ndim != 1 or len(parts) < 2 or not np.isfinite([*parts, value]).all():
        raise ValueError(f"need finite values without each of at least 2 groups, got {left_out}")
    num = len(parts)
    centre = value - (num - 1) * (parts.mean() - value) if correct else value
    error = math.sqrt((num - 1) * parts.var())
    method = f"jackknife over {num} groups of {over}" + (", corrected for bias" if correct else "")
    return around(centre, error, num - 1, method, level)


def jackknife_share(
    value: float, left_out: Sequence[float], num: int, *, level: float = LEVEL
) -> Interval:
    """As `jackknife`, of a share: within [0, 1], and no point where the share is 0 or 1.

    Wilson's interval with as many trials as have the jackknife's error; with `num`, where every
    group gives the same.

    Args:
      value: of all samples, in [0, 1].
      left_out: without each group, [G].
      num: what it is a share of.
      level: in (0, 1).

    Raises:
      ValueError: as `jackknife`, or for a value that is not a share.

    Source: Wilson 1927; the number of trials, Korn and Graubard 1998.
    """
    if not 0 <= value <= 1 or num < 1:
        raise ValueError(f"need a share in [0, 1] of num >= 1, got {value=}, {num=}")
    plain = jackknife(value, left_out, level=level)
    error = plain.standard_error
    # Equal values leave an error of rounding.
    trials = value * (1 - value) / error**2 if error > 1e-12 and 0 < value < 1 else num
    factor = _student_factor(len(left_out) - 1, level) ** 2 / trials
    centre = (value + factor / 2) / (1 + factor)
    half = math.sqrt(factor * (value * (1 - value) + factor / 4)) / (1 + factor)
    # Rounding may leave a bound just beyond what it is mathematically.
    low, high = max(min(centre - half, value), 0.0), min(max(centre + half, value), 1.0)
    return plain._replace(low=low, high=high)


def bootstrap_mean(
    values: np.ndarray,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
    over: str = "samples",
) -> Interval:
    """The mean of a value a sample, and the bootstrap's percentile interval of it.

    Args:
      values: [N], N >= 2; booleans count as shares.
      resamples: at least 100.
      seed: of the resampling.
      level: in (0, 1).
      over: what the values are of, for `method`.

    Raises:
      ValueError: for fewer values or resamples, or values that are not finite.

    Source: Efron 1979; Efron and Tibshirani 1993, section 13.3.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"need at least 2 finite values [N], got shape {values.shape}")
    num = len(values)

    def mean(counts: np.ndarray) -> float:
        return float(counts @ values) / num

    means = resampled(mean, num, resamples=resamples, seed=seed)
    low, high = np.quantile(means, _tails(level))
    error = float(means.std(ddof=1))
    method = f"bootstrap over {over}, {100 * level:g}%"
    return Interval(float(values.mean()), float(low), float(high), error, method)


def resampled(
    statistic: Callable[[np.ndarray], float], num: int, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """A statistic of as many bootstrap resamples of num samples, float64 [resamples].

    Args:
      statistic: how often each sample is in the resample, int [num] -> its value.
      num: of samples.
      resamples: at least 100.
      seed: of the draws.

    Raises:
      ValueError: for fewer than 2 samples or 100 resamples.
    """
    if num < 2 or resamples < 100:
        raise ValueError(f"need 2 samples and resamples >= 100, got {num} and {resamples=}")
    rng = np.random.default_rng(seed)
    draws = (np.bincount(rng.integers(num, size=num), minlength=num) for _ in range(resamples))
    return np.array([statistic(counts) for counts in draws])


def around(
    centre: float, error: float, freedom: int, method: str, level: float = LEVEL
) -> Interval:
    """Student's interval of a figure whose standard error has `freedom` degrees of freedom."""
    half = _student_factor(freedom, level) * float(error)
    centre = float(centre)
    method = f"{method}, {100 * level:g}%"
    return Interval(centre, centre - half, centre + half, float(error), method)


def _student_factor(freedom: int, level: float) -> float:
    """How many standard errors such an interval reaches to either side."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, _tails(level)[1]))


def _tails(level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"need 0 < level < 1, got {level=}")
    return (1 - level) / 2, (1 + level) / 2

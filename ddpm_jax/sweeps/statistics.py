"""What training seeds say of settings: means, paired differences, and the best of many.

Numbers in, numbers out: nothing here knows a sweep. A figure is better where it is less, larger or
near 1 (`reporting.report.labels`), or neither way.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation import intervals
from ddpm_jax.evaluation.intervals import Interval
from ddpm_jax.reporting.report.labels import HIGHER, LOWER, NEAR_ONE

FEW = 3  # seeds, below which a standard deviation says next to nothing
ENOUGH = 6  # seeds for a bootstrap of them, and for halves of them
SIGNIFICANT = 0.05
HALVES = 1000  # at most, drawn at random where there are more

BETTER, WORSE, DIFFERS, INCONCLUSIVE = "better", "worse", "differs", "inconclusive"


class Summary(NamedTuple):
    """A figure over seeds.

    Attributes:
      n: seeds.
      mean: over them.
      std: their standard deviation, of n - 1; None for one seed.
      interval: Student's, of the mean at 95%; None for one seed.
      bootstrap: of the mean, from `ENOUGH` seeds on; None below.
    """

    n: int
    mean: float
    std: float | None
    interval: Interval | None
    bootstrap: Interval | None


class Difference(NamedTuple):
    """A setting's figure less the baseline's, seed by seed.

    Attributes:
      n: seeds that both have.
      value: the mean difference.
      low, high: Student's interval at 95%; None for one seed, or where every seed has the same
        difference, whose spread is then not known.
      p: of no difference, two-sided; None for one seed.
    """

    n: int
    value: float
    low: float | None
    high: float | None
    p: float | None


class Optimism(NamedTuple):
    """How much better the best of several looks for having been chosen.

    Attributes:
      n: seeds that all settings have.
      chosen: the mean of the setting that is best on half of the seeds, on that half.
      held_out: the mean of the same setting on the other half.
      value: by how much `chosen` is better than `held_out`; all three are means over the halves.
    """

    n: int
    chosen: float
    held_out: float
    value: float


def summary(values: Sequence[float] | np.ndarray) -> Summary:
    """A figure over seeds.

    Raises:
      ValueError: for no values, or one that is not finite.
    """
    figures = np.asarray(values, np.float64)
    if figures.ndim != 1 or not len(figures) or not np.isfinite(figures).all():
        raise ValueError(f"need finite values of seeds, got {list(values)}")
    n = len(figures)
    if n == 1:
        return Summary(1, float(figures[0]), None, None, None)
    same = bool((figures == figures[0]).all())  # whose mean and deviation would have rounding
    return Summary(
        n=n,
        mean=float(figures[0] if same else figures.mean()),
        std=0.0 if same else float(figures.std(ddof=1)),
        interval=intervals.student(figures.tolist()),
        bootstrap=intervals.bootstrap_mean(figures, over="seeds") if n >= ENOUGH else None,
    )


def scored(values: Sequence[float] | np.ndarray, better: str) -> np.ndarray:
    """Values as what is better the less it is: as they are, negative, or their distance to 1."""
    figures = np.asarray(values, np.float64)
    return {HIGHER: -figures, NEAR_ONE: np.abs(figures - 1)}.get(better, figures)


def pooled_std(groups: Sequence[Sequence[float]]) -> float | None:
    """The standard deviation within groups, their means aside; None for no group of two values.

    Source: the mean square within groups of an analysis of variance, Fisher 1925.
    """
    groups = [group for group in groups if len(group) > 1 and np.isfinite(group).all()]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    squares = sum(float(np.var(group) * len(group)) for group in groups)
    return math.sqrt(squares / freedom)


def paired(
    values: Mapping[int, float], baseline: Mapping[int, float], better: str = ""
) -> Difference | None:
    """The difference to a baseline over common seeds; None where there are none.

    Of a figure that is better near 1 it is the difference of the distances to 1.

    Where all seeds have the same difference there is no spread to judge by, as of shares of few
    samples; p is then the sign test's, not Student's 0.

    Args:
      values, baseline: {seed: figure}.
      better: of the figure.

    Source: Student 1908; the sign test, Arbuthnot 1710.
    """
    seeds = sorted({*values} & {*baseline})
    if not seeds:
        return None
    pair = np.array([[one[seed] for seed in seeds] for one in (values, baseline)], np.float64)
    pair = scored(pair, better) if better == NEAR_ONE else pair
    differences = pair[0] - pair[1]
    n, value = len(seeds), float(differences.mean())
    if n == 1:
        return Difference(1, value, None, None, None)
    if np.ptp(differences) <= 1e-12 * np.abs(pair).max():  # equal but for rounding
        same = abs(value) <= 1e-12 * np.abs(pair).max()
        return Difference(n, 0.0 if same else value, None, None, 1.0 if same else 2.0 ** (1 - n))
    from scipy.special import stdtr

    interval = intervals.student(differences.tolist())
    p = 2 * float(stdtr(n - 1, -abs(value) / interval.standard_error))
    return Difference(n, value, interval.low, interval.high, p)


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several hypotheses, so that any false rejection is as rare as `SIGNIFICANT`.

    Source: Holm 1979; the adjusted values, Wright 1992.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted.tolist()


def word(difference: Difference, p: float | None, better: str) -> str:
    """ "better", "worse" or "inconclusive"; "differs" of a figure that is better neither way.

    Args:
      difference: to the baseline.
      p: after the correction for several; None for none.
      better: of the figure.
    """
    if p is None or p >= SIGNIFICANT:
        return INCONCLUSIVE
    if better not in (LOWER, HIGHER, NEAR_ONE):
        return DIFFERS
    return BETTER if (difference.value > 0) == (better == HIGHER) else WORSE


def best(values: Mapping[str, Sequence[float]], better: str) -> list[str]:
    """The setting of the best mean, or all that share it; none of fewer than two settings.

    Args:
      values: {setting: figures over its seeds}, at least one each.
      better: of the figure.
    """
    if better not in (LOWER, HIGHER, NEAR_ONE) or len(values) < 2:
        return []
    means = {name: float(scored(one, better).mean()) for name, one in values.items()}
    least = min(means.values())
    return [name for name, mean in means.items() if math.isclose(mean, least, rel_tol=1e-12)]


def optimism(values: np.ndarray, better: str) -> Optimism | None:
    """By how much the best of several settings looks better than it is.

    Half of the seeds choose the best setting, the other half says what it is: over all halves, or
    `HALVES` random ones. All k settings being equal and normal of deviation s, it is E[max of k
    standard normals] s / sqrt(n / 2): 1.4 times what it is when all n seeds choose.

    Args:
      values: [settings, seeds], at least 2 settings.
      better: of the figure; one that is better near 1 is taken by its distance to 1.

    Returns:
      None for fewer than `ENOUGH` seeds.

    Source: the winner's curse, Capen, Clapp and Campbell 1971; by halves, Cox 1975.
    """
    scores = scored(values, better)
    n = scores.shape[1]
    if n < ENOUGH or len(scores) < 2:
        return None
    half = n // 2
    if math.comb(n, half) <= HALVES:
        places = np.array([*itertools.combinations(range(n), half)])
    else:
        rng = np.random.default_rng(0)
        places = np.array([rng.permutation(n)[:half] for _ in range(HALVES)])
    choosing = np.zeros((len(places), n))
    choosing[np.arange(len(places))[:, None], places] = 1.0
    on_half = scores @ choosing.T / half
    on_rest = scores @ (1 - choosing).T / (n - half)
    winner = on_half.argmin(axis=0), np.arange(len(places))
    chosen, held_out = float(on_half[winner].mean()), float(on_rest[winner].mean())
    sign = -1.0 if better == HIGHER else 1.0
    return Optimism(n, sign * chosen, sign * held_out, held_out - chosen)

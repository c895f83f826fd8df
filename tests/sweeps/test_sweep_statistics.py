"""What seeds say: against scipy, closed forms of order statistics, and the laws by simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from ddpm_jax.reporting.report.labels import HIGHER, LOWER, NEAR_ONE
from ddpm_jax.sweeps import statistics


def seeded(values):
    return dict(enumerate(np.asarray(values, float).tolist()))


def test_a_summary_has_scipys_interval():
    values = [3.1, 2.7, 3.3, 2.9]
    found = statistics.summary(values)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert found.n == 4
    assert found.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert found.std == pytest.approx(stats.tstd(values), rel=1e-12)
    assert (found.interval.low, found.interval.high) == pytest.approx(expected, rel=1e-9)
    assert found.bootstrap is None


def test_one_seed_has_no_interval_and_six_have_a_bootstrap():
    assert statistics.summary([2.0]) == (1, 2.0, None, None, None)
    values = np.array([1.0, 1.2, 0.7, 1.1, 0.9, 1.4])
    boot = statistics.summary(values).bootstrap
    peer = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    # Of the 1000 resamples' quantile the standard error is about 0.07 of the mean's.
    assert (boot.low, boot.high) == pytest.approx(peer, abs=0.3 * stats.sem(values))


def test_equal_seeds_have_exactly_no_deviation():
    found = statistics.summary([0.1] * 3)
    assert (found.mean, found.std) == (0.1, 0.0)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0]]])
def test_what_is_no_list_of_finite_figures_is_refused(values):
    with pytest.raises(ValueError, match="finite values of seeds"):
        statistics.summary(values)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4000, 4))
    intervals = [statistics.summary(row).interval for row in draws]
    share = np.mean([one.low <= 0 <= one.high for one in intervals])
    # Four standard errors of a share of 4000.
    assert share == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_a_paired_difference_is_scipys_paired_test():
    rng = np.random.default_rng(1)
    base = rng.normal(size=7)
    other = base + 0.4 + 0.3 * rng.normal(size=7)
    peer = stats.ttest_rel(other, base)
    found = statistics.paired(seeded(other), seeded(base))
    ends = peer.confidence_interval(0.95)
    assert found.n == 7
    assert found.value == pytest.approx(np.mean(other - base), rel=1e-12)
    assert found.p == pytest.approx(peer.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-9)


def test_only_common_seeds_are_compared():
    found = statistics.paired({0: 1.0, 1: 2.0, 5: 9.0}, {1: 1.5, 0: 1.0, 7: 3.0})
    assert (found.n, found.value) == (2, 0.25)
    assert statistics.paired({0: 1.0}, {1: 1.0}) is None
    assert statistics.paired({0: 1.0}, {0: 3.0}) == (1, -2.0, None, None, None)


def test_near_one_the_distances_are_compared():
    found = statistics.paired({0: 1.1, 1: 0.8}, {0: 0.7, 1: 1.4}, NEAR_ONE)
    assert found.value == pytest.approx((0.1 - 0.3 + 0.2 - 0.4) / 2)


def test_equal_differences_leave_the_sign_test():
    base = np.arange(6) / 10
    found = statistics.paired(seeded(base + 0.05), seeded(base))
    assert (found.low, found.high) == (None, None)
    assert found.p == pytest.approx(stats.binomtest(6, 6).pvalue)
    assert statistics.paired(seeded(base), seeded(base)).p == 1.0


def closed_test(p):
    """Holm's procedure by its definition: the closed test of Bonferroni's of each intersection."""
    places = range(len(p))
    subsets = [s for n in range(1, len(p) + 1) for s in itertools.combinations(places, n)]
    bonferroni = {s: min(len(s) * min(p[k] for k in s), 1.0) for s in subsets}
    return [max(value for s, value in bonferroni.items() if k in s) for k in places]


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_the_closed_test_of_bonferronis(seed):
    p = (np.random.default_rng(seed).random(6) ** 3).tolist()
    assert statistics.holm(p) == pytest.approx(closed_test(p), rel=1e-12)


def test_holm_by_hand():
    """4 * 0.005, 3 * 0.01 and 2 * 0.03, and 0.04 is no less than the one before it."""
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []


def test_a_false_word_is_as_rare_as_promised():
    """Five settings like the baseline, all compared with it: any word in at most 5% of sweeps."""
    rng = np.random.default_rng(2)
    sweeps, wrong = 1500, 0
    for _ in range(sweeps):
        base, *others = rng.normal(size=(6, 5))
        found = [statistics.paired(seeded(one), seeded(base)) for one in others]
        adjusted = statistics.holm([one.p for one in found])
        words = [statistics.word(d, p, LOWER) for d, p in zip(found, adjusted, strict=True)]
        wrong += any(word != statistics.INCONCLUSIVE for word in words)
    assert wrong / sweeps < 0.05 + 4 * math.sqrt(0.05 * 0.95 / sweeps)
    assert wrong  # and it is no test that never speaks


@pytest.mark.parametrize(
    ("value", "p", "better", "expected"),
    [
        (-1.0, 0.01, LOWER, "better"),
        (1.0, 0.01, LOWER, "worse"),
        (1.0, 0.01, HIGHER, "better"),
        (-1.0, 0.01, HIGHER, "worse"),
        (-1.0, 0.01, NEAR_ONE, "better"),
        (-1.0, 0.01, "", "differs"),
        (-1.0, 0.05, LOWER, "inconclusive"),
        (-1.0, None, LOWER, "inconclusive"),
    ],
)
def test_words(value, p, better, expected):
    difference = statistics.Difference(3, value, None, None, p)
    assert statistics.word(difference, p, better) == expected


def test_the_best_mean_and_all_that_share_it():
    values = {"a": [1.0, 3.0], "b": [0.9], "c": [4.0, 0.0], "d": [1.2, 1.0]}
    assert statistics.best(values, LOWER) == ["b"]
    assert statistics.best(values, HIGHER) == ["a", "c"]
    assert statistics.best(values, NEAR_ONE) == ["b", "d"]
    assert statistics.best(values, "") == []
    assert statistics.best({"a": [1.0]}, LOWER) == []


def largest_of(k):
    """E[max of k standard normals], by quadrature of its density."""
    density = lambda x: x * k * stats.norm.pdf(x) * stats.norm.cdf(x) ** (k - 1)  # noqa: E731
    return integrate.quad(density, -12, 12)[0]


@pytest.mark.parametrize("better", [LOWER, HIGHER])
@pytest.mark.parametrize("n", [6, 13])  # all halves, and some at random
def test_the_winners_luck_among_equals_is_that_of_the_largest_of_normals(better, n):
    rng = np.random.default_rng(3)
    k, sweeps = 5, 400
    found = [statistics.optimism(rng.normal(size=(k, n)), better) for _ in range(sweeps)]
    luck = np.array([one.value for one in found])
    expected = largest_of(k) / math.sqrt(n // 2)
    assert luck.mean() == pytest.approx(expected, abs=4 * stats.sem(luck))
    held_out = np.array([one.held_out for one in found])
    assert held_out.mean() == pytest.approx(0.0, abs=4 * stats.sem(held_out))


def test_a_winner_that_is_far_better_owes_nothing_to_luck():
    rng = np.random.default_rng(4)
    values = rng.normal(size=(200, 5, 8)) + np.array([50.0, 0, 0, 0, 0])[:, None]
    luck = np.array([statistics.optimism(one, HIGHER).value for one in values])
    assert luck.mean() == pytest.approx(0.0, abs=4 * stats.sem(luck))
    assert statistics.optimism(values[0], HIGHER).chosen == pytest.approx(values[0, 0].mean())


def test_luck_takes_six_seeds():
    assert statistics.optimism(np.zeros((3, 5)), LOWER) is None
    assert statistics.optimism(np.zeros((1, 8)), LOWER) is None


def test_the_deviation_within_groups_is_that_of_an_analysis_of_variance():
    groups = [[1.0, 2.0, 3.0], [4.0, 6.0], [7.0]]
    # Squares about the means: 2 and 2, on 2 and 1 degrees of freedom.
    assert statistics.pooled_std(groups) == pytest.approx((4 / 3) ** 0.5)
    assert statistics.pooled_std([[1.0], []]) is None
    # Moving a group changes nothing; nor does a group that is not finite.
    moved = [[101.0, 102.0, 103.0], [4.0, 6.0], [float("nan"), 1.0]]
    assert statistics.pooled_std(moved) == pytest.approx((4 / 3) ** 0.5)

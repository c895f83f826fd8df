import numpy as np
import pytest
import scipy.stats

from ddpm_jax.evaluation import intervals


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).exponential(size=80)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_repeats_have_students_interval(level):
    repeats = [3.1, 2.9, 3.4]
    found = intervals.student(repeats, level)
    error = scipy.stats.sem(repeats)
    expected = scipy.stats.t.interval(level, 2, loc=np.mean(repeats), scale=error)
    assert found[:4] == pytest.approx((np.mean(repeats), *expected, error))
    assert found.method == f"3 repeats, {100 * level:g}%"


def without_each(statistic, values):
    return [statistic(np.delete(values, k)) for k in range(len(values))]


def test_the_jackknife_of_a_mean_is_the_classical_error(values):
    found = intervals.jackknife(values.mean(), without_each(np.mean, values))
    assert found.standard_error == pytest.approx(scipy.stats.sem(values))
    low, high = scipy.stats.t.interval(0.95, 79, loc=values.mean(), scale=found.standard_error)
    assert found[:3] == pytest.approx((values.mean(), low, high))
    assert found.method == "jackknife over 80 groups of samples, 95%"


def test_the_corrected_jackknife_takes_away_a_bias_of_one_over_n(values):
    # Of the variance divided by N it makes the one divided by N - 1, exactly.
    found = intervals.jackknife(np.var(values), without_each(np.var, values), correct=True)
    assert found.value == pytest.approx(np.var(values, ddof=1), rel=1e-10)
    assert "corrected for bias" in found.method
    plain = intervals.jackknife(np.var(values), without_each(np.var, values))
    assert plain.value == np.var(values)
    assert plain.standard_error == found.standard_error


def test_a_jackknifed_share_has_wilsons_interval():
    # Of trials left out one by one, the jackknife's error is sqrt(p (1 - p) / (n - 1)).
    hits = np.arange(500) < 60
    found = intervals.jackknife_share(0.12, without_each(np.mean, hits), 500)
    expected = scipy.stats.binomtest(60, 500).proportion_ci(0.95, method="wilson")
    assert found.value == 0.12
    assert found[1:3] == pytest.approx((expected.low, expected.high), abs=3e-4)


@pytest.mark.parametrize("share", [0, 1])
def test_a_share_of_none_or_all_is_not_certain(share):
    found = intervals.jackknife_share(share, [share] * 1000, 300)
    expected = scipy.stats.binomtest(300 * share, 300).proportion_ci(0.95, method="wilson")
    assert found[1:3] == pytest.approx((expected.low, expected.high), abs=1e-4)
    assert 0 <= found.low <= found.value <= found.high <= 1
    with pytest.raises(ValueError, match=r"value=1\.5"):
        intervals.jackknife_share(1.5, [1.0, 1.0], 10)


def test_groups_are_even_random_and_the_seeds():
    group = intervals.groups(103, 10, 1)
    assert set(np.bincount(group)) == {10, 11}
    np.testing.assert_array_equal(group, intervals.groups(103, 10, 1))
    # In a cycle of 10 labels no group is of one label alone.
    assert all(len(set(np.flatnonzero(group == g) % 10)) > 3 for g in range(10))


def test_the_bootstrap_of_a_mean_is_scipys(values):
    found = intervals.bootstrap_mean(values, resamples=4000, over="images")
    peer = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    )
    width = found.high - found.low
    assert found.value == values.mean()
    assert found.standard_error == pytest.approx(peer.standard_error, rel=0.05)
    assert found.low == pytest.approx(peer.confidence_interval.low, abs=0.05 * width)
    assert found.high == pytest.approx(peer.confidence_interval.high, abs=0.05 * width)
    assert found.method == "bootstrap over images, 95%"
    assert found == intervals.bootstrap_mean(values, resamples=4000, over="images")


def test_shares_stay_shares():
    found = intervals.bootstrap_mean(np.arange(200) > 1)
    assert found.value == 0.99
    assert 0.97 < found.low < 0.99 < found.high <= 1


def test_of_95_percent_intervals_about_as_many_hold_the_mean():
    rng = np.random.default_rng(0)
    found = [intervals.bootstrap_mean(rng.normal(size=100), resamples=200) for _ in range(300)]
    assert 0.92 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.98


def test_a_resample_has_as_many_samples_as_the_set():
    totals = intervals.resampled(lambda counts: counts.sum(), 17, resamples=100)
    np.testing.assert_array_equal(totals, np.full(100, 17))


def test_what_does_not_fit_is_refused(values):
    with pytest.raises(ValueError, match="at least 2 finite values, got"):
        intervals.student([1.0])
    with pytest.raises(ValueError, match="0 < level < 1, got level=95"):
        intervals.student([1.0, 2.0], 95)
    with pytest.raises(ValueError, match="0 < level < 1"):
        intervals.bootstrap_mean(values, level=0)
    with pytest.raises(ValueError, match="2 samples a group, got num_groups=20 and 39 samples"):
        intervals.groups(39)
    with pytest.raises(ValueError, match="finite values without each"):
        intervals.jackknife(1.0, [1.0, np.nan])
    with pytest.raises(ValueError, match="at least 2 finite values"):
        intervals.bootstrap_mean(np.array([1.0, np.inf]))
    with pytest.raises(ValueError, match="resamples=10"):
        intervals.bootstrap_mean(values, resamples=10)

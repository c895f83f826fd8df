import numpy as np
import pytest
import scipy.stats

from ddpm_jax.evaluation.loss_by_time import by_time


def draws(num=4000, seed=0):
    rng = np.random.default_rng(seed)
    t = 1 - rng.random(num)  # (0, 1]
    return t**2 + 0.1 * rng.standard_normal(num), t, rng.random(num)


def test_means_and_errors_are_scipys():
    loss, t, _ = draws()
    found = by_time(loss, t, np.ones_like(t), intervals=7)
    edges = np.linspace(0, 1, 8)
    mean, *_ = scipy.stats.binned_statistic(t, loss, "mean", edges)
    error, *_ = scipy.stats.binned_statistic(t, loss, scipy.stats.sem, edges)
    times, *_ = scipy.stats.binned_statistic(t, t, "mean", edges)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-12)
    np.testing.assert_allclose(found.t, times, rtol=1e-12)
    assert found.num.sum() == len(loss)


def test_a_known_loss_comes_back():
    # The mean of t² over (a, b] is (b³ - a³) / 3 (b - a).
    loss, t, _ = draws(200_000)
    found = by_time(loss, t, np.ones_like(t), intervals=5)
    edges = np.linspace(0, 1, 6)
    exact = np.diff(edges**3) / 3 / np.diff(edges)
    assert (np.abs(found.mean - exact) < 4.5 * found.standard_error).all()


def test_a_weight_of_two_is_the_draw_twice_and_none_of_nothing():
    loss, t, weight = draws()
    weight = np.floor(weight * 3)
    found = by_time(loss, t, weight, intervals=4)
    again = weight.astype(int)
    twice = by_time(*(np.repeat(v, again) for v in (loss, t, np.ones_like(t))), intervals=4)
    np.testing.assert_allclose(found.mean, twice.mean, rtol=1e-12)
    np.testing.assert_allclose(found.t, twice.t, rtol=1e-12)
    assert found.num.sum() == (weight > 0).sum()


def test_intervals_without_draws_are_left_out_and_upper_ends_belong():
    found = by_time(np.arange(4.0), np.array([0.25, 0.25, 1.0, 0.9]), np.ones(4), intervals=4)
    np.testing.assert_array_equal(found.mean, [0.5, 2.5])
    np.testing.assert_array_equal(found.num, [2, 2])


@pytest.mark.parametrize(
    ("loss", "t", "weight", "intervals"),
    [
        (np.ones(2), np.ones(3), np.ones(2), 4),
        (np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2)), 4),
        (np.ones(2), np.array([0.0, 1.5]), np.ones(2), 4),
        (np.ones(2), np.ones(2), np.array([1.0, -1.0]), 4),
        (np.ones(2), np.ones(2), np.ones(2), 0),
    ],
)
def test_what_does_not_fit_is_refused(loss, t, weight, intervals):
    with pytest.raises(ValueError, match="need"):
        by_time(loss, t, weight, intervals)

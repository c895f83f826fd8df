import numpy as np
import pytest
from sklearn.metrics.pairwise import polynomial_kernel

from ddpm_jax.evaluation import intervals
from ddpm_jax.evaluation import kernel_distance as kd


def normal(seed, num, width=4, mean=0.0):
    return mean + np.random.default_rng(seed).normal(size=(num, width))


def direct(x, y):
    """The unbiased estimate by scikit-learn's kernel, pair by pair."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    xx, yy, xy = (polynomial_kernel(a, b, degree=3, coef0=1) for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return within - 2 * xy.mean()


@pytest.mark.parametrize("rows", [1024, 7])
def test_the_whole_estimate_is_that_of_all_pairs(monkeypatch, rows):
    monkeypatch.setattr(kd, "_ROWS", rows)
    x, y = normal(0, 60).astype(np.float32), normal(1, 45, mean=0.3)
    assert kd.unbiased(x, y).value == pytest.approx(direct(x, y), rel=1e-11)
    assert kd.unbiased(x[::-1], y[::-1]).value == pytest.approx(direct(x, y), rel=1e-11)


def test_the_estimate_of_few_samples_is_that_of_all_pairs():
    x, y = normal(0, 3), normal(1, 2, mean=0.3)
    assert kd.value(x, y) == pytest.approx(direct(x, y), rel=1e-11)
    with pytest.raises(ValueError, match="samples: need at least 2 rows"):
        kd.value(x[:1], y)


def test_its_interval_is_that_of_sets_without_a_group():
    x, y = normal(0, 61), normal(1, 45, mean=0.3)
    group = intervals.groups(61, 7, 3)
    without = [direct(x[group != g], y) for g in range(7)]
    found = kd.unbiased(x, y, num_groups=7, seed=3)
    expected = intervals.jackknife(direct(x, y), without)
    assert found[:4] == pytest.approx(expected[:4], rel=1e-9)


def test_subsets_of_everything_are_the_whole():
    x, y = normal(0, 50), normal(1, 50, mean=0.3)
    found = kd.kernel_distance(x, y, subsets=3)
    assert found.value == pytest.approx(direct(x, y), rel=1e-11)
    assert found.standard_error < 1e-12
    assert (found.subsets, found.subset_size) == (3, 50)


def test_the_mean_over_subsets_is_the_whole_estimate_within_its_error():
    x, y = normal(0, 400), normal(1, 300, mean=0.2)
    found = kd.kernel_distance(x, y, subset_size=50)
    assert found.value == pytest.approx(direct(x, y), abs=3 * found.standard_error)
    # 100 subsets are four times as sure as 6.
    few = kd.kernel_distance(x, y, subset_size=50, subsets=6)
    assert 2 < few.standard_error / found.standard_error < 8
    assert kd.kernel_distance(x, y, subset_size=50) == found
    assert kd.kernel_distance(x, y, subset_size=50, seed=1).value != found.value


def test_one_dimension_has_a_closed_form_and_no_bias():
    # (xy + 1)^3 = 1 + 3 xy + 3 x^2 y^2 + x^3 y^3: squared differences of three moments.
    rng = np.random.default_rng(0)
    shift = 0.4
    expected = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    for mean, known in ((shift, expected), (0.0, 0.0)):
        found = []
        for _ in range(300):
            x, y = mean + rng.normal(size=(40, 1)), rng.normal(size=(40, 1))
            found.append(kd.unbiased(x, y, num_groups=2).value)
        assert np.mean(found) == pytest.approx(known, abs=3 * np.std(found) / np.sqrt(300))


@pytest.mark.parametrize(("shift", "width"), [(0.5, 1), (0.0, 4)])
def test_of_95_percent_intervals_about_as_many_hold_the_value_at_these_references(shift, width):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(60, width))
    # x.y / D is normal for a given y, with this mean and variance, and E (1 + z)^3 is known;
    # over x too it has, for a mean of 0, only the term of the second moment: D / D^2.
    mean, variance = 1 + shift * y.sum(axis=1) / width, np.square(y).sum(axis=1) / width**2
    across = (mean**3 + 3 * mean * variance).mean()
    powers = [shift, shift**2 + 1, shift**3 + 3 * shift]
    within = 1 + 3 / width if width > 1 else 1 + 3 * powers[0] ** 2 + 3 * powers[1] ** 2
    within += powers[2] ** 2
    kernel = polynomial_kernel(y, degree=3, coef0=1)
    of_references = (kernel.sum() - np.trace(kernel)) / (60 * 59)
    expected = within + of_references - 2 * across
    found = [kd.unbiased(shift + rng.normal(size=(150, width)), y) for _ in range(200)]
    held = np.mean([one.low <= expected <= one.high for one in found])
    assert 0.9 <= held <= 0.99


def test_what_does_not_fit_is_refused():
    x = normal(0, 50)
    with pytest.raises(ValueError, match=r"2 <= subset_size <= 20, .*subset_size=30"):
        kd.kernel_distance(x, x[:20], subset_size=30)
    with pytest.raises(ValueError, match="subsets=1"):
        kd.kernel_distance(x, x, subsets=1)
    with pytest.raises(ValueError, match="samples: row 7 of 50 is not finite"):
        kd.kernel_distance(np.where(np.arange(50)[:, None] == 7, np.nan, x), x)
    with pytest.raises(ValueError, match="got 4 and 3 dimensions"):
        kd.unbiased(x, x[:, :3])
    with pytest.raises(ValueError, match="references: need at least 2 rows, got 1"):
        kd.kernel_distance(x, x[:1])
    with pytest.raises(ValueError, match="num_groups=20 and 30 samples"):
        kd.unbiased(x[:30], x)

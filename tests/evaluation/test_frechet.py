import numpy as np
import pytest
import scipy.linalg

from ddpm_jax.evaluation import frechet, moments
from ddpm_jax.evaluation.moments import Statistics


def gaussian(rng, width, rank=None):
    root = rng.normal(size=(width, rank or width))
    return Statistics(rng.normal(size=width), root @ root.T)


def relative(distance, *both):
    return distance / sum(np.trace(one.covariance) for one in both)


def test_independent_dimensions_have_a_closed_form():
    # The Wasserstein distance of each: (m - m')^2 + (s - s')^2.
    a = Statistics(np.array([0.0, 1, 2]), np.diag([1.0, 4, 9]))
    b = Statistics(np.array([0.0, 3, 2]), np.diag([25.0, 4, 0]))
    assert frechet.frechet_distance(a, b) == pytest.approx(16 + 4 + 9, rel=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_the_matrix_root_is_scipys_where_that_is_well_conditioned(seed):
    rng = np.random.default_rng(seed)
    a, b = gaussian(rng, 7), gaussian(rng, 7)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet.frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_rotation_and_shift_of_both_change_nothing_and_scale_is_squared():
    rng = np.random.default_rng(0)
    a, b = gaussian(rng, 6), gaussian(rng, 6)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]

    def moved(one):
        return Statistics(3 * turn @ one.mean + 5, 9 * turn @ one.covariance @ turn.T)

    distance = frechet.frechet_distance(a, b)
    assert frechet.frechet_distance(moved(a), moved(b)) == pytest.approx(9 * distance, rel=1e-8)


@pytest.mark.parametrize("rank", [1, 5, 20, 30])
def test_a_set_is_at_0_of_itself_and_at_the_square_of_a_shift(rank):
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(rank + 1, 30)) * 10.0 ** np.linspace(-6, 0, 30)
    known = moments.of(x)
    shift = rng.normal(size=30)
    trace = np.trace(moments.covariance(known))
    assert frechet.frechet_distance(known, known) <= 1e-6 * trace
    away = frechet.frechet_distance(known, moments.of(x + shift))
    assert away == pytest.approx(np.square(shift).sum(), abs=1e-6 * trace)


def test_lines_in_space_have_a_closed_form():
    # Of rank 1, u u^T and v v^T: tr (A B)^(1/2) = |u.v|, where A B need not be diagonalisable.
    rng = np.random.default_rng(0)
    for v in (rng.normal(size=12), np.eye(12)[1]):
        u = np.eye(12)[0]
        a, b = (Statistics(np.zeros(12), np.outer(w, w)) for w in (u, v))
        expected = u @ u + v @ v - 2 * abs(u @ v)
        assert frechet.frechet_distance(a, b) == pytest.approx(expected, abs=1e-6)


def test_batches_and_their_order_change_nothing():
    rng = np.random.default_rng(0)
    x, reference = rng.normal(size=(200, 16)).astype(np.float32), gaussian(rng, 16)
    whole = frechet.frechet_distance(moments.of(x), reference)
    parts = [moments.of(part) for part in np.split(x[::-1], [3, 90])]
    merged = moments.merge(moments.merge(parts[2], parts[0]), parts[1])
    assert frechet.frechet_distance(merged, reference) == pytest.approx(whole, rel=1e-9)


def test_the_distance_of_samples_is_that_of_their_distributions_within_the_interval():
    rng = np.random.default_rng(0)
    model, data = gaussian(rng, 4), gaussian(rng, 4)
    expected = frechet.frechet_distance(model, data)
    x = rng.multivariate_normal(model.mean, model.covariance, 20_000)
    found = frechet.frechet_intervals(x, data).unbiased
    assert found.low < expected < found.high
    assert found.high - found.low < 0.05 * expected


@pytest.mark.parametrize(("shift", "scale"), [(0.3, 1.2), (0.0, 1.0)])
def test_of_95_percent_intervals_about_as_many_hold_the_true_distance(shift, scale):
    # Against N(0, 1) in each of D dimensions: D (shift^2 + (scale - 1)^2). N = 100 is far off it.
    width, trials = 3, 300
    data = Statistics(np.zeros(width), np.eye(width))
    expected = width * (shift**2 + (scale - 1) ** 2)
    rng = np.random.default_rng(0)
    found = [
        frechet.frechet_intervals(shift + scale * rng.normal(size=(100, width)), data)
        for _ in range(trials)
    ]
    plain = np.array([one.at_size.value for one in found])
    corrected = np.array([one.unbiased.value for one in found])
    assert plain.mean() - expected > 0.05  # the bias that is corrected
    assert corrected.mean() == pytest.approx(expected, abs=4 * plain.std() / np.sqrt(trials))
    held = np.mean([one.unbiased.low <= expected <= one.unbiased.high for one in found])
    held_at_size = np.mean([one.at_size.low <= plain.mean() <= one.at_size.high for one in found])
    # 300 intervals of 95% hold it in 92% to 98%; the jackknife's error leans to the large side.
    assert 0.92 <= held <= 0.985
    assert 0.92 <= held_at_size <= 0.985


def test_too_few_samples_for_a_covariance_are_told():
    warning = frechet.rank_warning(1437, 2048)
    assert "rank 1,436 at most" in warning
    assert "KID" in warning
    assert "\n" not in warning
    assert frechet.rank_warning(2048, 2048)
    assert frechet.rank_warning(2049, 2048) is None


def test_what_does_not_fit_is_refused():
    rng = np.random.default_rng(0)
    a, b = gaussian(rng, 3), gaussian(rng, 4)
    with pytest.raises(ValueError, match="got 3 and 4 dimensions"):
        frechet.frechet_distance(a, b)
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        frechet.frechet_distance(moments.of(np.ones((1, 3))), a)
    with pytest.raises(ValueError, match="least eigenvalue is -1"):
        frechet.frechet_distance(a, Statistics(np.zeros(3), np.diag([1.0, 1, -1])))
    with pytest.raises(ValueError, match="not finite"):
        frechet.frechet_distance(a, Statistics(np.full(3, np.nan), np.eye(3)))
    with pytest.raises(ValueError, match=r"3 dimensions and a covariance \(2, 2\)"):
        frechet.frechet_distance(a, Statistics(np.zeros(3), np.eye(2)))
    x = rng.normal(size=(100, 30))
    with pytest.raises(ValueError, match="num_groups=60 and 100 samples"):
        frechet.frechet_intervals(x, gaussian(rng, 30), num_groups=60)

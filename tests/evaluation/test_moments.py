import numpy as np
import pytest

from ddpm_jax.evaluation import checks, moments


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 3).astype(np.float32)


def in_batches(features, size):
    total = moments.zero(features.shape[1])
    for start in range(0, len(features), size):
        total = moments.update(total, features[start : start + size])
    return total


def assert_same(a, b, rtol=1e-10):
    assert a.num == b.num
    np.testing.assert_allclose(a.mean, b.mean, rtol)
    np.testing.assert_allclose(a.scatter, b.scatter, rtol, atol=rtol * np.abs(b.scatter).max())


def test_mean_and_covariance_are_numpys(features):
    total = in_batches(features, 64)
    exact = features.astype(np.float64)
    np.testing.assert_allclose(total.mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance(total), np.cov(exact.T), rtol=1e-10)
    known = moments.statistics(total)
    assert known.num == 300
    np.testing.assert_array_equal(known.covariance, known.covariance.T)


@pytest.mark.parametrize("size", [1, 7, 299])
def test_batches_and_their_order_change_rounding_alone(features, size):
    whole = moments.of(features)
    assert_same(in_batches(features, size), whole)
    shuffled = features[np.random.default_rng(size).permutation(300)]
    assert_same(in_batches(shuffled, size), whole)


def test_shards_are_merged_in_any_order(features):
    shards = [moments.of(part) for part in np.array_split(features, [2, 150, 151, 290])]
    empty = moments.zero(6)
    for order in ([0, 1, 2, 3, 4], [4, 0, 3, 1, 2]):
        total = empty
        for k in order:
            total = moments.merge(total, shards[k])
        assert_same(total, moments.of(features))
    assert moments.merge(empty, empty).num == 0


def test_a_large_array_is_read_in_blocks(features, monkeypatch):
    whole = moments.of(features)
    monkeypatch.setattr(checks, "BLOCK_BYTES", 8 * 6 * 13)
    assert len(list(checks.blocks(features))) == 24
    assert_same(moments.of(features), whole)


def test_a_mean_far_from_0_costs_no_digits():
    # E[x^2] - E[x]^2 has lost all digits here: 1e16 is 1e16 + 1 in float64.
    rng = np.random.default_rng(1)
    x = rng.integers(-8, 8, (400, 3)).astype(np.float64)
    far = in_batches(x + 1e8, 32)
    np.testing.assert_allclose(moments.covariance(far), np.cov(x.T), rtol=1e-7, atol=1e-7)


def test_what_is_removed_is_as_if_it_had_never_been(features):
    rest = moments.remove(moments.of(features), moments.of(features[:100]))
    assert_same(rest, moments.of(features[100:]))
    with pytest.raises(ValueError, match="cannot remove 300 rows of 300"):
        moments.remove(moments.of(features), moments.of(features))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(features, bad):
    broken = features.copy()
    broken[217, 3] = bad
    with pytest.raises(ValueError, match="row 217 of 300 is not finite"):
        moments.of(broken)


def test_what_is_no_features_is_refused(features):
    with pytest.raises(ValueError, match=r"need real numbers \[N, D\], got float32 of shape"):
        moments.of(features[0])
    with pytest.raises(ValueError, match="real numbers"):
        moments.of(features.astype(np.complex64))
    with pytest.raises(ValueError, match="got 5 and 6 dimensions"):
        moments.update(moments.zero(5), features)
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        moments.covariance(moments.of(features[:1]))
    with pytest.raises(ValueError, match="num_dimensions=0"):
        moments.zero(0)

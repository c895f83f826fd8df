import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ddpm_jax.evaluation import intervals, manifold, neighbours

NAMES = ("precision", "recall", "density", "coverage")


def direct(samples, references, k):
    """All four from all distances at once, by scipy."""
    own = np.sort(cdist(samples, samples), axis=1)[:, k]  # the first is the sample itself
    reach = np.sort(cdist(references, references), axis=1)[:, k]
    distances = cdist(samples, references)
    return {
        "precision": (distances <= reach).any(axis=1).mean(),
        "recall": (distances <= own[:, None]).any(axis=0).mean(),
        "density": (distances < reach).sum(axis=1).mean() / k,
        "coverage": (distances < reach).any(axis=0).mean(),
    }


def assert_same(found, expected):
    assert {name: getattr(found, name) for name in NAMES} == pytest.approx(expected, abs=1e-12)


def normal(seed, num, width=3, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=(num, width))


CASES = {
    "normal": lambda: (normal(0, 90), normal(1, 70, scale=1.3)),
    "narrow": lambda: (normal(0, 60, 2, 0.3), normal(1, 80, 2)),
    # Nearly every comparison is of equal numbers, and there are copies.
    "lattice": lambda: tuple(
        np.random.default_rng(s).integers(0, 4, (60, 2)).astype(float) for s in (0, 1)
    ),
    "float32 far from 0": lambda: tuple(
        (1000 + normal(s, 60)).astype(np.float32).astype(float) for s in (0, 1)
    ),
    "8 bits": lambda: tuple(
        np.random.default_rng(s).integers(0, 256, (50, 5), np.uint8) for s in (0, 1)
    ),
}


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("case", CASES)
def test_all_four_are_scipys(case, k):
    samples, references = CASES[case]()
    found = manifold.prdc(samples, references, k)
    assert_same(found, direct(samples.astype(float), references.astype(float), k))
    assert found.k == k
    alone = manifold.prdc(samples, references, k, num_groups=0)
    assert alone[:5] == found[:5]
    assert alone.intervals == {}


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("case", CASES)
def test_recall_alone_is_scipys_of_any_number_of_references(case, k, monkeypatch):
    samples, references = CASES[case]()
    expected = direct(samples.astype(float), references.astype(float), k)["recall"]
    assert manifold.recall(samples, references, k) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", 8 * samples.shape[1] * 7)
    assert manifold.recall(samples, references, k) == pytest.approx(expected, abs=1e-12)
    assert manifold.recall(samples, samples[:2], k) == 1


@pytest.mark.parametrize("case", CASES)
def test_blocks_and_the_order_change_nothing(case):
    samples, references = CASES[case]()
    whole = manifold.prdc(samples, references)
    assert manifold.prdc(samples, references, block=(7, 9)) == whole
    rng = np.random.default_rng(0)
    shuffled = manifold.prdc(rng.permutation(samples), rng.permutation(references))
    assert_same(shuffled, {name: getattr(whole, name) for name in NAMES})


@pytest.mark.parametrize("seed", range(3))
def test_a_set_against_itself_has_1_and_a_set_far_off_0(seed):
    x = normal(seed, 100, 8)
    assert manifold.prdc(x, x)[:4] == (1, 1, 1, 1)
    assert manifold.prdc(x, x + 100)[:4] == (0, 0, 0, 0)


def test_the_balls_on_a_line_are_known():
    # The second neighbours of 0, 1, 3, 7 are at 3, 2, 3, 6.
    references = np.array([[0.0], [1], [3], [7]])
    # 13 is on the edge of the last ball; of the samples, the balls are large.
    samples = np.array([[13.0], [14], [2.5]])
    found = manifold.prdc(samples, references, 2, num_groups=0)
    # Precise: 13 (closed) and 2.5. Open balls around 2.5: of 0, 1, 3 and 7.
    assert found.precision == pytest.approx(2 / 3)
    assert found.density == pytest.approx(4 / 3 / 2)
    assert found.coverage == 1
    assert found.recall == 1


@pytest.mark.parametrize("case", CASES)
def test_intervals_are_those_of_sets_without_a_group(case):
    samples, references = CASES[case]()
    found = manifold.prdc(samples, references, 3, num_groups=8, seed=5)
    group = intervals.groups(len(samples), 8, 5)
    without = [direct(samples[group != g].astype(float), references, 3) for g in range(8)]
    for name in NAMES:
        left_out = [one[name] for one in without]
        expected = intervals.jackknife(getattr(found, name), left_out)
        assert found.intervals[name].standard_error == pytest.approx(expected.standard_error)
        assert found.intervals[name].value == getattr(found, name)
        if name != "density":
            assert 0 <= found.intervals[name].low <= found.intervals[name].high <= 1


def test_of_95_percent_intervals_about_as_many_hold_the_mean_over_all_samples():
    rng = np.random.default_rng(0)
    references = rng.normal(size=(200, 2))
    found = [
        manifold.prdc(1 + 0.5 * rng.normal(size=(150, 2)), references).intervals for _ in range(120)
    ]
    for name in NAMES:
        values = np.array([one[name].value for one in found])
        held = np.mean([one[name].low <= values.mean() <= one[name].high for one in found])
        error = np.sqrt(np.mean([one[name].standard_error ** 2 for one in found]))
        assert held >= 0.9, name
        assert 0.8 < error / values.std() < 1.6, name


def test_what_does_not_fit_is_refused():
    x = normal(0, 30)
    with pytest.raises(ValueError, match="more than k samples, got k=5 and 5: draw more"):
        manifold.prdc(x[:5], x)
    with pytest.raises(ValueError, match="more than k references, got k=7 and 7"):
        manifold.prdc(x, x[:7], 7)
    with pytest.raises(ValueError, match="k >= 1"):
        manifold.prdc(x, x, 0)
    with pytest.raises(ValueError, match="got 3 and 2 dimensions"):
        manifold.prdc(x, x[:, :2])
    with pytest.raises(ValueError, match="references: row 2 of 30 is not finite"):
        manifold.prdc(x, np.where(np.arange(30)[:, None] == 2, np.inf, x))
    with pytest.raises(ValueError, match="num_groups=20 and 30 samples"):
        manifold.prdc(x, x)
    with pytest.raises(ValueError, match="more than k=5 samples without a group, got 8"):
        manifold.prdc(x[:8], x, num_groups=2)

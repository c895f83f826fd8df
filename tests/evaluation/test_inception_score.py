import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from ddpm_jax.evaluation import inception_score as inception


@pytest.fixture(scope="module")
def logits():
    return 3 * np.random.default_rng(0).normal(size=(103, 7)).astype(np.float32)


def test_it_is_the_divergence_that_scipy_computes(logits):
    scores = []
    for split in range(4):
        p = softmax(logits[103 * split // 4 : 103 * (split + 1) // 4].astype(float), axis=1)
        scores.append(np.exp(np.mean([entropy(row, p.mean(axis=0)) for row in p])))
    found = inception.inception_score(logits, splits=4)
    assert found.mean == pytest.approx(np.mean(scores), rel=1e-12)
    assert found.std == pytest.approx(np.std(scores), rel=1e-10)
    assert found.splits == 4


def test_sure_and_balanced_is_the_number_of_classes_and_undecided_is_1():
    sure = 1e4 * np.eye(5)[np.arange(100) % 5]  # probabilities of exactly 0 among them
    assert inception.inception_score(sure) == pytest.approx((5, 0, 10))
    assert inception.inception_score(sure[:40] * 0).mean == pytest.approx(1)
    assert inception.inception_score(1e4 * np.eye(5)[np.zeros(40, int)]).mean == pytest.approx(1)


def test_a_shift_of_a_row_and_the_order_of_classes_change_nothing(logits):
    whole = inception.inception_score(logits)
    shifted = logits.astype(np.float64) + np.arange(103)[:, None] * 1e3
    assert inception.inception_score(shifted)[:2] == pytest.approx(whole[:2], rel=1e-9)
    assert inception.inception_score(logits[:, ::-1])[:2] == pytest.approx(whole[:2], rel=1e-12)


@pytest.mark.parametrize("size", [1, 9, 60])
def test_batches_in_any_order_change_rounding_alone(logits, size):
    sums = inception.zero(10, 7)
    for start in np.random.default_rng(0).permutation(np.arange(0, 103, size)).tolist():
        sums = inception.update(sums, logits[start : start + size], start, 103)
    assert sums.counts.sum() == 103
    assert inception.score(sums) == pytest.approx(inception.inception_score(logits), rel=1e-12)


def test_what_does_not_fit_is_refused(logits):
    with pytest.raises(ValueError, match="10 splits of at least one sample"):
        inception.inception_score(logits[:9])
    with pytest.raises(ValueError, match=r"within total=50, got 40 to 50"):
        inception.update(inception.zero(2, 7), logits[:11], 40, 50)
    with pytest.raises(ValueError, match="split 1 has no samples"):
        inception.score(inception.update(inception.zero(2, 7), logits[:50], 0, 100))
    with pytest.raises(ValueError, match="logits: row 0 of 103 is not finite"):
        inception.inception_score(np.where(logits == logits[0, 0], np.nan, logits))
    with pytest.raises(ValueError, match="got 7 and 8 dimensions"):
        inception.update(inception.zero(2, 8), logits, 0, 103)
    with pytest.raises(ValueError, match="num_classes=1"):
        inception.inception_score(logits[:, :1])

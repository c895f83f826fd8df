"""A bigram model by counting: by hand, as a law of all texts, and as an entropy."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from ddpm_jax.evaluation import bigram

TEXTS = ["ab", "abb", "b"]


def test_counts_by_hand():
    """Edge to a 2 of 3, to b 1; a to b 2 of 2; b to b 1 of 4, to the end 3."""
    bits = bigram.counted(TEXTS, smoothing=0)
    assert bits("ab") == pytest.approx(-math.log2(2 / 3 * 1 * 3 / 4))
    assert bits("abbb") == pytest.approx(-math.log2(2 / 3 * 1 / 4 * 1 / 4 * 3 / 4))
    assert bits("ba") == math.inf


def test_with_smoothing_probabilities_sum_to_one():
    """Over all texts of a, b and what was never seen: what is missing are the longer ones."""
    bits = bigram.counted(TEXTS)
    total = sum(
        2 ** -bits("".join(text))
        for length in range(9)
        for text in itertools.product("ab?", repeat=length)
    )
    assert 0.9 < total < 1


def test_on_its_own_texts_it_is_the_entropy_of_a_character_given_the_one_before():
    pairs = np.array([[0, 2, 1], [0, 0, 2], [3, 0, 1]])  # from and to the edge, a, b
    own = sum(map(bigram.counted(TEXTS, smoothing=0), TEXTS)) / bigram.num_characters(TEXTS).sum()
    of_pair = scipy.stats.entropy(pairs.ravel(), base=2)
    before = scipy.stats.entropy(pairs.sum(axis=1), base=2)
    assert own == pytest.approx(of_pair - before)


@pytest.mark.parametrize(("texts", "smoothing"), [([], 1.0), (["a"], -1.0)])
def test_what_cannot_be_counted(texts, smoothing):
    with pytest.raises(ValueError, match="need texts"):
        bigram.counted(texts, smoothing)

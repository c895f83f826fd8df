"""A bigram model of texts, by counting: what a model of captions is to beat."""

import collections
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

# What stands before the first character and behind the last one.
EDGE = "\n"


def counted(texts: Sequence[str], smoothing: float = 1.0) -> Callable[[str], float]:
    """text -> -log2 p(text) under p(character | the one before it), as the texts have them.

    The end is a character like any other, so p sums to 1 over all texts of the alphabet. A
    character that none of the texts has is one more of it, the same for all such.

    Args:
      texts: without line breaks.
      smoothing: what is added to each count, at least 0; at 0 a pair that was never seen has
        probability 0.

    Raises:
      ValueError: for no texts, or smoothing below 0.

    Source: Jurafsky & Martin, "Speech and language processing", the chapter on n-grams.
    """
    if not texts or smoothing < 0:
        raise ValueError(f"need texts, and smoothing of at least 0; got {len(texts)}, {smoothing=}")
    pairs = collections.Counter(
        pair for text in texts for pair in itertools.pairwise(_with_edges(text))
    )
    before: collections.Counter[str] = collections.Counter()
    for (first, _), count in pairs.items():
        before[first] += count
    known = {*before}
    size = len(known) + 1  # with the one of characters that were never seen

    def bits(text: str) -> float:
        total = 0.0
        for first, second in itertools.pairwise(_with_edges(text)):
            count = pairs[first, second] + smoothing
            of_all = before[first] + smoothing * size
            total += math.inf if count == 0 else math.log2(of_all / count)
        return total

    return bits


def num_characters(texts: Sequence[str]) -> np.ndarray:
    """The characters of each text with its end, int [N]: what bits are divided by."""
    return np.array([len(text) + 1 for text in texts])


def _with_edges(text: str) -> list[str]:
    return [EDGE, *text, EDGE]

"""The inception score: are samples each clearly of a class, and together of all classes?

It never looks at the data, and belongs to one classifier: compare equal protocols alone.
"""

from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation import checks

SPLITS = 10


class InceptionScore(NamedTuple):
    """Mean and standard deviation over splits, as the literature gives them."""

    mean: float  # in [1, number of classes]
    std: float  # divided by the number of splits, not by one less
    splits: int


class Sums(NamedTuple):
    """What batches of logits add up to, split by split."""

    counts: np.ndarray  # int64 [S]
    probabilities: np.ndarray  # float64 [S, K]
    negative_entropies: np.ndarray  # float64 [S], sum of p log p


def zero(splits: int, num_classes: int) -> Sums:
    """The sums of nothing, to `update`. Raises ValueError for no splits or fewer than 2 classes."""
    if splits < 1 or num_classes < 2:
        raise ValueError(f"need splits >= 1 and num_classes >= 2, got {splits=}, {num_classes=}")
    return Sums(np.zeros(splits, np.int64), np.zeros((splits, num_classes)), np.zeros(splits))


def update(sums: Sums, logits: np.ndarray, start: int, total: int) -> Sums:
    """The sums with a batch more, which may come in any order.

    Args:
      sums: of the batches so far.
      logits: of samples start, start + 1, ..., [B, K]; any shift of a row is the same.
      start: the index of the first of them.
      total: the number of samples in all; split s of S has those from
        floor(total s / S) on, as in the published code.

    Raises:
      ValueError: for logits that are not finite, other classes, or samples beyond `total`.
    """
    logits = checks.features(logits, "logits").astype(np.float64)
    checks.same_width(logits, sums.probabilities, "logits and sums")
    splits = len(sums.counts)
    index = np.arange(start, start + len(logits))
    if start < 0 or index[-1] >= total or total < splits:
        raise ValueError(
            f"need {splits} splits of at least one sample, and samples within {total=}, got "
            f"{start} to {index[-1]}"
        )
    logits -= logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    probabilities = np.exp(logs)
    split = ((index + 1) * splits - 1) // total  # so that split s begins at floor(total s / S)
    added = Sums(*(array.copy() for array in sums))
    np.add.at(added.counts, split, 1)
    np.add.at(added.probabilities, split, probabilities)
    np.add.at(added.negative_entropies, split, (probabilities * logs).sum(axis=1))
    return added


def score(sums: Sums) -> InceptionScore:
    """exp of the mean KL(p(y | x) || p(y)) in each split; mean and deviation over the splits.

    Raises:
      ValueError: if a split has no samples.

    Source: Salimans et al. 2016, section 4; Barratt and Sharma 2018 on what it misses.
    """
    if not sums.counts.all():
        raise ValueError(f"split {int(np.argmin(sums.counts))} has no samples: need some in each")
    marginal = sums.probabilities / sums.counts[:, None]
    logs = np.log(np.where(marginal > 0, marginal, 1))
    scores = np.exp(sums.negative_entropies / sums.counts - (marginal * logs).sum(axis=1))
    return InceptionScore(float(scores.mean()), float(scores.std()), len(scores))


def inception_score(logits: np.ndarray, splits: int = SPLITS) -> InceptionScore:
    """The score of logits that are all there, [N, K], N >= splits. Raises as `update`."""
    logits = checks.features(logits, "logits")
    return score(update(zero(splits, logits.shape[1]), logits, 0, len(logits)))

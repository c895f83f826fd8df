"""The loss at each part of the way: means over draws that fall into intervals of t."""

from typing import NamedTuple

import numpy as np


class ByTime(NamedTuple):
    """Float64 [K] each, for the intervals into which anything fell.

    Attributes:
      t: the mean of the times in the interval.
      mean: of the loss.
      standard_error: of that mean.
      num: int, draws in the interval.
    """

    t: np.ndarray
    mean: np.ndarray
    standard_error: np.ndarray
    num: np.ndarray


def by_time(loss: np.ndarray, t: np.ndarray, weight: np.ndarray, intervals: int = 20) -> ByTime:
    """Means of the loss over equal intervals of t in [0, 1].

    Args:
      loss: [N].
      t: [N], in [0, 1]; an interval's upper end belongs to it.
      weight: [N], each draw's in the mean, at least 0; what has 0 does not count.
      intervals: at least 1.

    Raises:
      ValueError: for other shapes, times or weights out of range, or no interval.
    """
    loss, t, weight = (np.asarray(v, np.float64) for v in (loss, t, weight))
    if not loss.shape == t.shape == weight.shape == (len(loss),) or intervals < 1:
        raise ValueError(
            f"need loss, t and weight of one shape [N], and intervals >= 1; got {loss.shape}, "
            f"{t.shape}, {weight.shape} and {intervals=}"
        )
    if not (np.all((t >= 0) & (t <= 1)) and np.all(weight >= 0)):
        raise ValueError("need 0 <= t <= 1 and weight >= 0")
    counts = weight > 0
    loss, t, weight = loss[counts], t[counts], weight[counts]
    # As the loss by quarter of t: float32 times such as 750 / 1000 may be a little above.
    place = np.clip(np.ceil(t * intervals - 1e-5).astype(int) - 1, 0, intervals - 1)

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(place, values, intervals)

    num = np.bincount(place, minlength=intervals)
    filled = num > 0
    total = np.where(filled, sums(weight), 1.0)
    mean = sums(weight * loss) / total
    squares = sums((weight * (loss - mean[place])) ** 2)
    # Of N draws of one weight: the sample's deviation over sqrt(N), unbiased in the square.
    error = np.sqrt(squares * num / np.maximum(num - 1, 1)) / total
    return ByTime((sums(weight * t) / total)[filled], mean[filled], error[filled], num[filled])

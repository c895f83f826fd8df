"""Rows of arrays, so many at a time, in batches of one size."""

from collections.abc import Iterator

import numpy as np


def batches(rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The numbers of rows [size] and these rows; the last batch repeats the last row.

    Args:
      rows: [N, ...], at least one.
      size: of a batch.
    """
    for start in range(0, len(rows), size):
        numbers = np.arange(start, start + size)
        yield numbers, rows[np.minimum(numbers, len(rows) - 1)]

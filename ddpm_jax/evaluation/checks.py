"""What the measures of this room ask of their arrays, refused in one line where it is not so."""

from collections.abc import Iterator

import numpy as np

BLOCK_BYTES = 2**25  # of float64 that are made of features at a time


def features(values: np.ndarray, name: str = "features", least: int = 1) -> np.ndarray:
    """The features as they are, in their own dtype, once they are known to be usable.

    Args:
      values: [N, D] of real numbers.
      name: of the argument, for the message.
      least: the fewest rows that make sense.

    Raises:
      ValueError: for another shape or dtype, fewer rows, or a row that is not finite.
    """
    values = np.asarray(values)
    if values.ndim != 2 or not values.shape[1] or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{name}: need real numbers [N, D], got {values.dtype} of shape {values.shape}"
        )
    if len(values) < least:
        raise ValueError(f"{name}: need at least {least} rows, got {len(values)}")
    if values.dtype.kind == "f":
        for rows in blocks(values):
            if not np.isfinite(part := values[rows]).all():
                bad = rows.start + int(np.argmin(np.isfinite(part).all(axis=1)))
                raise ValueError(
                    f"{name}: row {bad} of {len(values)} is not finite; leave that sample out, or "
                    "mend what computed it"
                )
    return values


def same_width(a: np.ndarray, b: np.ndarray, names: str = "samples and references") -> None:
    """Raises ValueError unless both have as many dimensions, their last axes."""
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"{names}: need features of one extractor, got {a.shape[-1]} and {b.shape[-1]} "
            "dimensions"
        )


def blocks(values: np.ndarray, rows: int | None = None) -> Iterator[slice]:
    """Slices of rows, one after the other; by default as many as make a block in float64."""
    rows = rows or max(1, BLOCK_BYTES // (8 * values.shape[1]))
    for start in range(0, len(values), rows):
        yield slice(start, min(start + rows, len(values)))

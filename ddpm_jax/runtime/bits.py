"""Where two trees of arrays differ, bit by bit, and by how much."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax.runtime import digests

Arrays = Mapping[str, np.ndarray]


def equal(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two arrays have the same type, shape and bits; a NaN equals its own copy."""
    return digests.kind(left) == digests.kind(right) and not _differing(left, right).any()


def difference(left: np.ndarray, right: np.ndarray) -> dict[str, Any] | None:
    """By how much two arrays differ; None where no bit does.

    Returns:
      {"elements": how many differ in a bit, "of": how many there are, "index": of the largest
      difference (the first of them; of a NaN, if there is one), "a", "b": the values there,
      "max_abs": their distance, "relative_l2": |left - right| / |left|}, in float64; None for
      numbers that are not finite. Of arrays of other shapes or types {"a", "b": "dtype[shape]"}.
    """
    if digests.kind(left) != digests.kind(right):
        return {"a": digests.kind(left), "b": digests.kind(right)}
    differing = _differing(left, right)
    if not differing.any():
        return None
    flat = [np.asarray(side).reshape(-1).astype(np.float64) for side in (left, right)]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        away = np.abs(flat[0] - flat[1])
        norms = np.linalg.norm(away), np.linalg.norm(flat[0])
        relative = float(norms[0] / norms[1])
    # Among those that differ: where it is by a zero's sign alone, there too.
    place = int(np.argmax(np.where(differing, np.nan_to_num(away, nan=np.inf), -1)))
    return {
        "elements": int(differing.sum()),
        "of": differing.size,
        "index": [int(k) for k in np.unravel_index(place, np.shape(left))],
        "a": _finite(flat[0][place]),
        "b": _finite(flat[1][place]),
        "max_abs": _finite(away[place]),
        "relative_l2": _finite(relative),
    }


def compare(left: Arrays, right: Arrays) -> dict[str, Any]:
    """What differs between arrays by name, in the order of `left`; of those that both have.

    Returns:
      {"tensors": how many both have, "differing": how many differ, "first": {"tensor": name} and
      `difference`, or None, "alone": {"a": names that left alone has, "b": that right has}}.
    """
    shared = [name for name in left if name in right]
    differing = [name for name in shared if not equal(left[name], right[name])]
    first = None
    if differing:
        first = {"tensor": differing[0], **(difference(*_of(differing[0], left, right)) or {})}
    alone = {
        "a": [name for name in left if name not in right],
        "b": [name for name in right if name not in left],
    }
    return {"tensors": len(shared), "differing": len(differing), "first": first, "alone": alone}


def _of(name: str, left: Arrays, right: Arrays) -> tuple[np.ndarray, np.ndarray]:
    return left[name], right[name]


def _differing(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """bool [N], of the elements in their order; of arrays of one kind."""
    size = left.dtype.itemsize
    rows = [
        np.ascontiguousarray(a).reshape(-1).view(np.uint8).reshape(-1, size) for a in (left, right)
    ]
    return (rows[0] != rows[1]).any(axis=1)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

"""The nearest references of each sample, and whether they are nearer than new data would be.

|x - y|^2 = |x|^2 + |y|^2 - 2 x.y is one matrix product, and loses the digits of small distances: of
a copy, all of them. So it only selects; what is selected is measured again by its differences, and
an exact copy is at distance 0.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation import checks

ROWS = 1024  # at most, on both sides of a block of distances: 8 MiB
BLOCK_BYTES = 2**27  # at most, of the rows of one side in float64
_SPARE = 4  # candidates beyond those asked for, so that rounding decides nothing


class Neighbours(NamedTuple):
    """The nearest references, the nearest first."""

    distances: np.ndarray  # float64 [N, num], Euclidean
    indices: np.ndarray  # int [N, num], into the references


class Copies(NamedTuple):
    """How near samples come to the training set."""

    nearest: np.ndarray  # int [N], the nearest training image of each sample
    distances: np.ndarray  # float64 [N], to it
    ratios: np.ndarray  # float64 [N] in [0, 1], distance to the nearest over the second nearest
    memorisation: float  # mean distance over that of held-out images; 1 as new data, 0 copies


def block_of(width: int) -> tuple[int, int]:
    """How many samples and references of so many dimensions are compared at a time."""
    rows = min(ROWS, max(1, BLOCK_BYTES // (8 * width)))
    return rows, rows


def nearest(
    references: np.ndarray,
    queries: np.ndarray,
    num: int = 1,
    *,
    leave_out_self: bool = False,
    block: tuple[int, int] | None = None,
) -> Neighbours:
    """The nearest references of each query.

    Args:
      references: [M, ...], real and finite, compared as flat vectors.
      queries: [N, ...] of the same shape.
      num: how many, 1 to M (or M - 1).
      leave_out_self: the queries are the references, and none is its own neighbour.
      block: queries and references that are compared at a time, which bounds the memory; by
        default `block_of` their width.

    Raises:
      ValueError: for values that are not finite, different sizes, or fewer references than `num`.
    """
    squares, indices = nearest_squares(
        references, queries, num, leave_out_self=leave_out_self, block=block
    )
    return Neighbours(np.sqrt(squares), indices)


def nearest_squares(
    references: np.ndarray,
    queries: np.ndarray,
    num: int = 1,
    *,
    leave_out_self: bool = False,
    block: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, the squares of the distances, as `measured` gives them, and the indices."""
    references, queries = flat(references, "references"), flat(queries, "queries")
    checks.same_width(queries, references)
    available = len(references) - leave_out_self
    if not 1 <= num <= available:
        raise ValueError(f"need 1 <= num <= {available} references to choose from, got {num=}")
    block = block or block_of(references.shape[1])
    centre = mean(references)
    distances = np.empty((len(queries), num))
    indices = np.empty((len(queries), num), np.int64)
    for rows in checks.blocks(queries, block[0]):
        of_rows = queries[rows] - centre
        best = np.empty((len(of_rows), 0))
        best_at = np.empty((len(of_rows), 0), np.int64)
        for columns in _narrow_first(references, block[1]):
            squares = squared_distances(of_rows, references[columns] - centre)
            if leave_out_self:
                _hide_diagonal(squares, rows.start - columns.start)
            best, best_at = _keep(
                best, best_at, squares, columns.start, min(num + _SPARE, available)
            )
        exact = _measured(queries[rows], references, best_at)
        order = np.argsort(exact, axis=1, kind="stable")[:, :num]
        distances[rows] = np.take_along_axis(exact, order, axis=1)
        indices[rows] = np.take_along_axis(best_at, order, axis=1)
    return distances, indices


def copies(train: np.ndarray, held_out: np.ndarray, samples: np.ndarray) -> Copies:
    """Whether samples copy the training set, each by itself and all together.

    The ratio of a sample is near 0 where it is much nearer to one training image than to any other:
    a copy; new data has ratios near 1. An exact copy has 0, even of an image that is there twice.

    Args:
      train, held_out, samples: [N, ...] in the same units, pixels or features; at least 2 to train.

    Raises:
      ValueError: as `nearest`, or if the held-out images are all in the training set.

    Source: the ratio, Lowe 2004, section 7.1, as Carlini et al. 2023, section 4.2, for copies.
    """
    to_train = nearest(train, samples, 2)
    first, second = to_train.distances.T
    ratios = np.divide(first, second, out=np.zeros_like(first), where=first > 0)
    own = nearest(train, held_out).distances.mean()
    if not own:
        raise ValueError(
            "held_out: every image is in the training set too, so there is no distance of new data "
            "to compare with; hold out others"
        )
    return Copies(to_train.indices[:, 0], first, ratios, float(first.mean() / own))


def flat(values: np.ndarray, name: str) -> np.ndarray:
    """Values as checked vectors [N, D], in their own dtype."""
    values = np.asarray(values)
    if values.ndim < 2:
        raise ValueError(f"{name}: need [N, ...], got shape {values.shape}")
    return checks.features(values.reshape(len(values), -1), name)


def mean(values: np.ndarray) -> np.ndarray:
    """The mean row in float64 [D]: distances are computed around it, and so keep their digits."""
    return values.mean(axis=0, dtype=np.float64)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b|^2 of all pairs, float64 [A, B], to about 1e-16 (|a|^2 + |b|^2)."""
    # The norms ride along as two more columns: two passes over [A, B] less.
    left = np.hstack([-2 * a, np.square(a).sum(axis=1, keepdims=True), np.ones((len(a), 1))])
    right = np.hstack([b, np.ones((len(b), 1)), np.square(b).sum(axis=1, keepdims=True)])
    return left @ right.T


def measured(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b|^2 of rows [P, D] pair by pair, float64 [P]; 0 for a copy, and the same for (b, a)."""
    return np.square(a.astype(np.float64) - b).sum(axis=1)


def _measured(queries: np.ndarray, references: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.stack([measured(queries, references[column]) for column in at.T], axis=1)


def _keep(
    best: np.ndarray, best_at: np.ndarray, squares: np.ndarray, start: int, num: int
) -> tuple[np.ndarray, np.ndarray]:
    """The smallest of what was kept and of a block that begins at reference `start`.

    Once `num` are kept, few of a block are smaller than the largest of them: to look for those is
    several times faster than to sort all.
    """
    if best.shape[1] < num:
        at = np.broadcast_to(np.arange(start, start + squares.shape[1]), squares.shape)
    else:
        i, j = np.nonzero(squares < best.max(axis=1, keepdims=True))
        counts = np.bincount(i, minlength=len(squares))
        place = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
        smaller = np.full((len(squares), counts.max()), np.inf)
        at = np.zeros(smaller.shape, np.int64)
        smaller[i, place], at[i, place] = squares[i, j], start + j
        squares = smaller
    best, best_at = np.hstack([best, squares]), np.hstack([best_at, at])
    if best.shape[1] > num:
        at = np.argpartition(best, num - 1, axis=1)[:, :num]
        best, best_at = (np.take_along_axis(x, at, axis=1) for x in (best, best_at))
    return best, best_at


def _narrow_first(references: np.ndarray, columns: int) -> Iterator[slice]:
    """Blocks of references, the first a small one, whose smallest rule out most of the others."""
    first = min(columns, 256, len(references))
    yield slice(0, first)
    for rest in checks.blocks(references[first:], columns):
        yield slice(first + rest.start, first + rest.stop)


def _hide_diagonal(squares: np.ndarray, offset: int) -> None:
    """Row r of the block is the reference in column r + offset of it."""
    rows = np.arange(len(squares))
    inside = (rows + offset >= 0) & (rows + offset < squares.shape[1])
    squares[rows[inside], rows[inside] + offset] = np.inf

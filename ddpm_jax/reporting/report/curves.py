"""Curves out of metrics.jsonl: a stream of any length, kept in a bounded number of points."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.runtime import files

POINTS = 400  # of a curve at least, where there were as many, and twice as many at most
MAX_NAMES = 64
MAX_NAME = 60
MAX_LINE = 2**16


class Points(NamedTuple):
    """A curve, float64 [N] each: means of neighbouring values, with their least and largest.

    Attributes:
      steps: rising.
      mean, low, high: of the values at a point.
      num: how many values a point stands for.
    """

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    num: np.ndarray


class Curve:
    """Values by step, as they come, in memory that does not grow with their number.

    Neighbours are put together, two by two, whenever there are more than 2 * `points`.
    """

    def __init__(self, points: int = POINTS):
        self._most = 2 * points
        self._width = 1  # values of a whole point
        self.last = -math.inf
        # sum of steps, sum, least, largest, count
        self._kept: list[tuple[float, float, float, float, int]] = []
        self.missing = 0  # values that were no finite numbers
        self.lost = False  # the last one was none
        self.newest: float | None = None  # value, None where it was none

    def add(self, step: float, value: float | None) -> None:
        """One value more, None where it was not finite; left out if its step is not a later one."""
        if step <= self.last:
            return
        self.last = step
        self.lost = value is None
        self.newest = value
        if value is None:
            self.missing += 1
            return
        one = (float(step), float(value), float(value), float(value), 1)
        if self._kept and self._kept[-1][-1] < self._width:
            self._kept[-1] = _together(self._kept[-1], one)
        else:
            self._kept.append(one)
        if len(self._kept) > self._most:
            pairs = zip(self._kept[::2], self._kept[1::2], strict=False)
            odd = self._kept[-1:] if len(self._kept) % 2 else []
            self._kept = [_together(*pair) for pair in pairs] + odd
            self._width *= 2

    def points(self) -> Points:
        """The curve so far."""
        steps, sums, low, high, num = np.array(self._kept, np.float64).reshape(-1, 5).T
        return Points(steps / num, sums / num, low, high, num)


class Metrics(NamedTuple):
    """What metrics.jsonl holds: a curve for each name, and the number of lines that hold none."""

    curves: dict[str, Curve]
    unreadable: int

    def points(self, name: str) -> Points | None:
        """The curve of a name; None where it has no values."""
        curve = self.curves.get(name)
        points = None if curve is None else curve.points()
        return None if points is None or not len(points.steps) else points


def read(path: str | Path, points: int = POINTS) -> Metrics:
    """The curves of a metrics.jsonl; what cannot be read counts, and is not fatal.

    Raises:
      OSError: if there is no such file, or it cannot be read.
      ValueError: if it is no regular file.
    """
    curves: dict[str, Curve] = {}
    unreadable = 0
    for line in files.read_lines(path, MAX_LINE):
        try:
            values = json.loads(line)
            step = values.pop("step")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            unreadable += 1
            continue
        if not _is_number(step):
            unreadable += 1
            continue
        for name, value in values.items():
            curve = curves.get(name)
            if curve is None:
                if len(curves) == MAX_NAMES or len(name) > MAX_NAME:
                    continue
                curve = curves[name] = Curve(points)
            if _is_number(value):
                curve.add(step, value)
            elif value is None or isinstance(value, float):  # NaN, as null or as JSON's extension
                curve.add(step, None)
    return Metrics(curves, unreadable)


def smooth(points: Points, share: float = 0.02) -> np.ndarray:
    """A curve without its jitter: at each point the line that fits its neighbourhood best.

    Args:
      points: N of them.
      share: of the range of steps; the standard deviation of the Gaussian that weighs neighbours.

    Returns:
      float64 [N]; a straight line comes back as it is, up to its ends.

    Source: Cleveland 1979, "Robust locally weighted regression", degree 1, with Gaussian weights.
    """
    steps, values = points.steps, points.mean
    if len(steps) < 3:
        return values
    spacing = np.median(np.diff(steps))
    width = max(share * (steps[-1] - steps[0]), spacing / 2)
    offset = (steps[None, :] - steps[:, None]) / width
    weight = np.exp(-0.5 * offset**2) * points.num[None, :]
    s0, s1, s2 = ((weight * offset**k).sum(axis=1) for k in range(3))
    v0, v1 = ((weight * offset**k * values[None, :]).sum(axis=1) for k in range(2))
    determinant = s0 * s2 - s1 * s1
    # A point without neighbours within the Gaussian's reach is its own line.
    alone = determinant <= 1e-9 * s0 * np.maximum(s2, s0)
    return np.where(alone, v0 / s0, (s2 * v0 - s1 * v1) / np.where(alone, 1, determinant))


def spread(many: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of a sequence, evenly spaced, the first and the last among them."""
    if len(many) <= most:
        return list(many)
    places = np.linspace(0, len(many) - 1, max(most, 2)).round().astype(int)
    return [many[place] for place in places]


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300  # NaN is not; squares and sums of others stay finite


def _together(
    a: tuple[float, float, float, float, int], b: tuple[float, float, float, float, int]
) -> tuple[float, float, float, float, int]:
    return a[0] + b[0], a[1] + b[1], min(a[2], b[2]), max(a[3], b[3]), a[4] + b[4]

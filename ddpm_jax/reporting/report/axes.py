"""Axes: from values to places in a plot, and round numbers to write beside it."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

LOG_LIMIT = 690.0  # exp of it is 1e299: powers of ten around it are finite
# Of a logarithmic axis: the digits of its ticks, the densest first.
DIGITS = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,))


@dataclasses.dataclass(frozen=True)
class Axis:
    """An interval of values, low < high, shown linearly or by logarithm.

    Attributes:
      low, high: its ends; positive if it is logarithmic.
      log: by logarithm.
    """

    low: float
    high: float
    log: bool = False

    def place(self, values: np.ndarray) -> np.ndarray:
        """Where values stand, 0 at the low end and 1 at the high one; not finite where nowhere."""
        values = np.asarray(values, np.float64)
        low, high = self.low, self.high
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                values, low, high = np.log(values), math.log(low), math.log(high)
        return (values - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        """Round numbers on the axis, evenly spread: no more than about `most`."""
        if self.log and len(powers := self._powers(most)) > 1:
            return powers
        step = _round_step((self.high - self.low) / max(most - 1, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        ticks = [k * step for k in range(first, last + 1)]
        return [t for t in ticks if t > 0] if self.log else ticks

    def _powers(self, most: int) -> list[float]:
        """Round digits times powers of ten; fewer than two on a short axis."""
        low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        powers = range(low, high + 1)
        for digits in DIGITS:
            every = [digit * 10.0**power for power in powers for digit in digits]
            ticks = [t for t in every if self.low * (1 - 1e-9) <= t <= self.high * (1 + 1e-9)]
            if len(ticks) <= most + 3:
                return ticks
        return ticks[:: -(-len(ticks) // most)]


def axis(values: Iterable[np.ndarray], *, log: bool = False, pad: float = 0.0) -> Axis:
    """The axis that holds all finite values (all positive ones, if logarithmic).

    Args:
      values: arrays of any length.
      log: by logarithm; linear all the same if nothing is positive.
      pad: a share of its length left free at both ends.
    """
    every = np.concatenate([np.ravel(np.asarray(v, np.float64)) for v in values] or [np.zeros(0)])
    every = every[np.isfinite(every)]
    if log:
        positive = every[every > 0]
        if len(positive):
            low, high = np.log(positive.min()), np.log(positive.max())
            gap = max((high - low) * pad, 0.02 if high - low < 1e-9 else 0.0)
            low, high = np.exp(np.clip((low - gap, high + gap), -LOG_LIMIT, LOG_LIMIT))
            return Axis(float(low), float(high), True)
    if not len(every):
        return Axis(0.0, 1.0)
    low, high = float(every.min()), float(every.max())
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-30):
        margin = abs(low) * 0.1 or 1.0
        return Axis(low - margin, high + margin)
    return Axis(low - pad * (high - low), high + pad * (high - low))


def number(value: float) -> str:
    """A number as people read it: 1,500; 20k; 0.0123; 3.4e-07."""
    size = abs(value)
    if size >= 1e6:
        for unit, letter in ((1e9, "G"), (1e6, "M")):
            if unit <= size < 1e3 * unit:
                return f"{value / unit:.4g}{letter}"
        return f"{value:.3g}"
    if size >= 1e4 and value % 1000 == 0:
        return f"{value / 1000:.4g}k"
    if size >= 100:
        return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"
    if size >= 1e-3 or value == 0:
        return f"{value:.4g}" if size >= 1 else f"{value:.3g}"
    return f"{value:.2g}"


def _round_step(step: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below it."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= step * (1 - 1e-9))

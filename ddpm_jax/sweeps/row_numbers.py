"""The numbers of a row of a sweep's report: all of them in full, and as people read them."""

import math
from collections.abc import Sequence
from typing import Any

from ddpm_jax.sweeps.aggregates import Row

COLUMNS = ("setting", "n", "mean", "std", "low", "high")
OF_SAMPLES = ("sample_std",)
BOOTSTRAP = ("bootstrap_low", "bootstrap_high")
COMPARED = ("common_seeds", "difference", "difference_low", "difference_high", "p_holm", "word")
MOST_DIGITS = 8  # after the point


def written(row: Row) -> dict[str, str]:
    """Its numbers as people read them, with the digits that their spread calls for."""
    numbers = flat(row)
    own = digits([numbers["std"]])
    apart = _digits_apart(numbers["difference"], _width(row))
    texts = {
        name: str(numbers[name] if numbers[name] is not None else "") for name in ("n", "word")
    }
    texts |= {
        n: number(numbers[n], own) for n in ("mean", "std", "low", "high", *OF_SAMPLES, *BOOTSTRAP)
    }
    texts |= {n: number(numbers[n], apart) for n in COMPARED[1:4]}
    p = numbers["p_holm"]
    return texts | {"p_holm": "" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.2g}"}


def flat(row: Row) -> dict[str, Any]:
    """Its numbers by column; None for what is not there."""
    own, other = row.summary, row.difference
    interval, bootstrap = (own.interval, own.bootstrap) if own else (None, None)
    return {
        "setting": row.setting,
        "n": len(row.seeds),
        "mean": own.mean if own else None,
        "std": own.std if own else None,
        "sample_std": row.sample_std,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "bootstrap_low": bootstrap.low if bootstrap else None,
        "bootstrap_high": bootstrap.high if bootstrap else None,
        "common_seeds": other.n if other else None,
        "difference": other.value if other else None,
        "difference_low": other.low if other else None,
        "difference_high": other.high if other else None,
        "p_holm": row.p,
        "word": row.word or None,
    }


def _width(row: Row) -> float | None:
    one = row.difference
    return None if one is None or one.low is None or one.high is None else one.high - one.low


def digits(sizes: Sequence[float | None]) -> int | None:
    """After the point: as many as show two digits of the first size that is not 0.

    None where there is no such size, or none that digits would show.
    """
    sized = [abs(size) for size in sizes if size]
    if not sized or not 1e-12 < sized[0] < 1e6:
        return None
    return min(max(1 - math.floor(math.log10(sized[0])), 0), MOST_DIGITS)


def _digits_apart(difference: float | None, width: float | None) -> int | None:
    """Two of the difference, and no more than two beyond those of its interval's width."""
    own, of_width = digits([difference]), digits([width])
    return own if own is None or of_width is None else max(min(own, of_width + 2), of_width)


def number(value: float | None, digits: int | None) -> str:
    """A number with so many digits after the point; of None a whole one whole, others with four."""
    if value is None:
        return ""
    if digits is None and value.is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.4g}" if digits is None or abs(value) >= 1e9 else f"{value:.{digits}f}"

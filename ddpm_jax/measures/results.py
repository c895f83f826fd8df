"""What an evaluation found: figures with intervals, as JSON and as a table."""

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import intervals
from ddpm_jax.evaluation.intervals import Interval
from ddpm_jax.reporting.report import evaluations
from ddpm_jax.reporting.report.labels import Label
from ddpm_jax.runtime import environment, files

FORMAT = evaluations.FORMAT  # what is written is what a report reads
FigureRecord = dict[str, Any]


class Figure(NamedTuple):
    """A measured value, and the interval that is said of it.

    Attributes:
      value: the figure.
      low, high: of its interval; None where one set of samples tells none.
      interval: how it was found: "jackknife over samples, 95%".
    """

    value: float
    low: float | None = None
    high: float | None = None
    interval: str | None = None

    def record(self) -> FigureRecord:
        """As JSON; what is not finite, which JSON has not, is None."""
        fields = {n: v for n, v in self._asdict().items() if v is not None}
        return {
            n: None if isinstance(v, float) and not math.isfinite(v) else v
            for n, v in fields.items()
        }


def of_interval(interval: Interval) -> Figure:
    """A value with its interval."""
    return Figure(interval.value, interval.low, interval.high, interval.method)


def share(value: float, num: int) -> Figure:
    """A share of `num` independent samples, with Wilson's interval at 95%.

    Source: Wilson 1927, equation 1.
    """
    z = 1.959964
    centre = (value + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * math.sqrt(value * (1 - value) / num + z**2 / (4 * num**2))
    # Rounding may leave a bound just beyond what it is mathematically.
    low, high = max(min(centre - half, value), 0.0), min(max(centre + half, value), 1.0)
    return Figure(value, low, high, "Wilson, 95%")


def normal(mean: float, standard_error: float) -> Figure:
    """A mean with the normal interval of its standard error, at 95%."""
    half = 1.959964 * standard_error
    return Figure(mean, mean - half, mean + half, "normal, 95%")


def over_repeats(many: Sequence[Mapping[str, Figure]]) -> dict[str, FigureRecord]:
    """The figures of one set of samples, or of several their means, with Student's interval."""
    if len(many) == 1:
        return {name: figure.record() for name, figure in many[0].items()}
    records: dict[str, FigureRecord] = {}
    for name in many[0]:
        values = [figures[name].value for figures in many if name in figures]
        records[name] = of_interval(intervals.student(values)).record() | {"values": values}
    return records


def labelled(labels: Mapping[str, Label], names: Iterable[str]) -> dict[str, FigureRecord]:
    """What a result says of each of its figures: how it is called, and which way is better."""
    return {
        name: {field: text for field, text in labels[name]._asdict().items() if text}
        for name in names
    }


def values(metrics: Mapping[str, FigureRecord]) -> dict[str, float]:
    """The values alone."""
    return {n: math.nan if r["value"] is None else r["value"] for n, r in metrics.items()}


def text(record: FigureRecord | None) -> str:
    """A figure as it is read: "1.234 (1.100 to 1.400)"."""
    if record is None or record.get("value") is None:
        return ""
    figures = [record[n] for n in ("value", "low", "high") if record.get(n) is not None]
    # As many digits as the interval needs, if it has one.
    width = figures[2] - figures[1] if len(figures) == 3 else abs(figures[0])
    digits = min(max(3, 1 - math.floor(math.log10(width))), 8) if width > 1e-9 else 3
    shown = [f"{figure:.{digits}f}" for figure in figures]
    return f"{shown[0]} ({shown[1]} to {shown[2]})" if len(shown) == 3 else shown[0]


def table(rows: Mapping[str, Mapping[str, FigureRecord]]) -> str:
    """Rows of figures as a Markdown table: many rows down the page, or many figures."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    if len(names) > len(rows):
        heads, lines = list(rows), {n: [text(row.get(n)) for row in rows.values()] for n in names}
    else:
        heads, lines = names, {t: [text(row.get(n)) for n in names] for t, row in rows.items()}
    shown = [f"| {title} | {' | '.join(cells)} |" for title, cells in lines.items()]
    return "\n".join([f"| | {' | '.join(heads)} |", "|" + " --- |" * (len(heads) + 1), *shown])


def write(path: Path, report: dict[str, Any], began: float) -> None:
    """Write a result to DIR/eval/NAME.json, with where, when and how long it was measured.

    Args:
      path: of the file.
      report: the result; what is said here is added to it.
      began: when, by time.monotonic.

    Raises:
      UserError: where it cannot be written.
    """
    about = environment.describe()
    report |= {name: about[name] for name in ("versions", "devices", "git")}
    report["seconds"] = round(time.monotonic() - began, 1)
    report["written"] = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {path.parent} ({error.strerror})") from error
    files.must_write_json(path, report)


def step(number: int | None) -> dict[str, int]:
    """What a result says of the checkpoint's step; nothing of what has none."""
    return {} if number is None else {"checkpoint_step": number}


def file_name(name: str) -> str:
    """The name of a result. Raises UserError for one that is not a plain file's."""
    if not re.fullmatch(r"[\w.-]{1,100}", name, re.ASCII):
        raise UserError(f"--name={name}: need letters, digits, '.', '_' or '-', at most 100")
    return name

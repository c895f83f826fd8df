"""Two results beside each other: only figures of one protocol are compared."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.errors import UserError
from ddpm_jax.measures import metric_table, results
from ddpm_jax.measures.metric import Needs
from ddpm_jax.measures.results import FigureRecord
from ddpm_jax.reporting.report import evaluations
from ddpm_jax.reporting.report.evaluations import Evaluation, Measured, Row
from ddpm_jax.reporting.report.labels import Label
from ddpm_jax.runtime import files

LIMIT = 2**24
NOTHING = "nothing"
OF_TIME = ", "  # between a figure and the t that it is of
# Fields of the protocol that only some figures depend on.
OF_SOME = {field for needs in Needs for field in needs.depends}


class Result(NamedTuple):
    """A file of measures, and the versions it was made with."""

    path: str
    evaluation: Evaluation
    versions: dict[str, Any]


def compare(first: str | Path, second: str | Path, allow: Sequence[str] = ()) -> str:
    """The figures of two evaluations, their difference and its interval, as a Markdown table.

    Of the protocols, and of the settings of single rows, all must agree that a figure which both
    have depends on. Numbers of network evaluations must where the sampling is the same.

    Args:
      first, second: files that `evaluate` wrote.
      allow: fields that may differ: "sampling.num_steps", or a group of them; "guidance_scale".

    Raises:
      UserError: for files that are no results, protocols that differ (naming each field), or
        results that have no figure in common.
    """
    a, b = read(first), read(second)
    rows = _rows(a.evaluation.rows, b.evaluation.rows)
    data = _of_model(a.evaluation), _of_model(b.evaluation)
    common = _common(rows.values(), data)
    if not common:
        raise UserError(f"{first} and {second} have no figure in common{_settings(a, b, rows)}")
    protocols = _that_count(a.evaluation, b.evaluation, common)
    differing = dict(_differences(*protocols))
    same_sampling = not any(name.split(".")[0] in ("sampling", "guides") for name in differing)
    of_rows = dict(_row_differences(rows.values()))
    differing |= of_rows
    refused = {
        field: both
        for field, both in differing.items()
        if not any(field == name or field.startswith(f"{name}.") for name in allow)
        and (field != "nfe" or (same_sampling and len(of_rows) == 1))
    }
    if refused:
        differences = "; ".join(f"{field}: {x} and {y}" for field, (x, y) in refused.items())
        raise UserError(
            f"these are not measured alike: {differences}; evaluate one of them again, or name "
            "with --allow what may differ"
        )
    header = [f"A: {_named(a)}", f"B: {_named(b)}"]
    differing |= dict(_differences(a.versions, b.versions, "versions"))
    header += [f"{field}: {x} and {y}" for field, (x, y) in differing.items()]
    tables = {title: (x.metrics, y.metrics) for title, (x, y) in rows.items()}
    tables["held-out data"] = data
    parts = [_table(title, *both) for title, both in tables.items() if {*both[0]} & {*both[1]}]
    return "\n\n".join(["\n".join(header), *parts])


def read(path: str | Path) -> Result:
    """What `evaluate` wrote to a file. Raises UserError for another file."""
    try:
        content = files.read_json(path, LIMIT)
        if not isinstance(content, dict) or content.get("format") != results.FORMAT:
            raise ValueError(f"it is no result of format {results.FORMAT}; evaluate again")
        for name in ("protocol", "run", "samples", "held_out_data"):
            if name not in content:
                raise ValueError(f"its {name} is missing")
        evaluation = evaluations.parse(Path(path).stem, content, metric_table.labels())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be compared ({reason})") from error
    versions = content.get("versions")
    return Result(str(path), evaluation, versions if isinstance(versions, dict) else {})


def _common(rows: Iterable[tuple[Row, Row]], data: tuple[Mapping, Mapping]) -> set[str]:
    """The names of the figures that both have."""
    return {*data[0]} & {*data[1]} | {n for x, y in rows for n in {*x.metrics} & {*y.metrics}}


def _that_count(
    a: Evaluation, b: Evaluation, common: set[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The protocols with only what the figures that both have depend on."""
    every = a.labels | b.labels
    labels = [every.get(name.split(OF_TIME)[0]) for name in common]
    measured = {label.metric for label in labels if label is not None}
    needed = {field for label in labels for field in _needs(label).depends}
    kept = [
        {n: v for n, v in one.protocol.items() if n not in OF_SOME or n in needed} for one in (a, b)
    ]
    for one in kept:
        if isinstance(digests := one.pop("code", None), dict):
            own = {name: digest for name, digest in digests.items() if name in measured}
            one |= {"code": own} if own else {}
    x, y = (one.protocol.get("metrics") for one in (a, b))
    if isinstance(x, dict) and isinstance(y, dict):
        both = measured & {*x} & {*y}
        for one, settings in zip(kept, (x, y), strict=True):
            one["metrics"] = {name: settings[name] for name in both}
    return kept[0], kept[1]


def _needs(label: Label | None) -> Needs:
    """What a figure was measured on; of samples beside real images where nothing says it."""
    by_value = {needs.value: needs for needs in Needs}
    return Needs.PIXELS if label is None else by_value.get(label.needs, Needs.PIXELS)


def _differences(a: Any, b: Any, name: str = "") -> Iterator[tuple[str, tuple[str, str]]]:
    """The fields in which two values differ, each with both values."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({*a, *b}):
            inner = f"{name}.{key}" if name else key
            yield from _differences(a.get(key, NOTHING), b.get(key, NOTHING), inner)
    elif a != b:
        yield name, (_short(a), _short(b))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _rows(a: Sequence[Row], b: Sequence[Row]) -> dict[str, tuple[Row, Row]]:
    """Title to the rows of both of equal settings; single rows, whatever theirs."""
    if len(a) == len(b) == 1:
        titles = dict.fromkeys((_setting(a[0]), _setting(b[0])))
        return {" and ".join(titles): (a[0], b[0])}
    other = {_setting(row): row for row in b}
    return {_setting(row): (row, other[_setting(row)]) for row in a if _setting(row) in other}


def _row_differences(
    rows: Iterable[tuple[Row, Row]],
) -> Iterator[tuple[str, tuple[str, str]]]:
    """As `_differences`, of the settings of rows that are compared."""
    for x, y in rows:
        if {*x.metrics} & {*y.metrics}:
            yield from _differences(x.setting, y.setting)


def _setting(row: Row) -> str:
    scales = {n: v for n, v in row.setting.items() if n != "nfe"}
    parts = (
        f"{n} {v:g}" if isinstance(v, float) else f"{n} {_short(v)}" for n, v in scales.items()
    )
    return ", ".join(parts) or "samples"


def _settings(a: Result, b: Result, rows: Mapping[str, Any]) -> str:
    """What to say of results of samples that have no row in common."""
    if rows or not (a.evaluation.rows and b.evaluation.rows):
        return ""
    x, y = (" / ".join(_setting(row) for row in one.evaluation.rows) for one in (a, b))
    return f": their settings are {x}, and {y}"


def _of_model(one: Evaluation) -> dict[str, Measured]:
    """What is said of held-out data by the model: their likelihood, how a classifier reads them.

    What else is said of them is the same for every model.
    """
    own = {n: m for n, m in one.held_out.items() if n in one.labels and one.labels[n].of_model}
    for row in one.by_time:
        own |= {f"{name}{OF_TIME}{_setting(row)}": m for name, m in row.metrics.items()}
    return own


def _table(title: str, a: Mapping[str, Measured], b: Mapping[str, Measured]) -> str:
    lines = [f"| {title} | A | B | B - A |", "| --- | --- | --- | --- |"]
    for name in (n for n in a if n in b):
        records = (a[name]._asdict(), b[name]._asdict(), _difference(a[name], b[name]))
        lines.append(f"| {name} | {' | '.join(results.text(record) for record in records)} |")
    return "\n".join(lines)


def _difference(a: Measured, b: Measured) -> FigureRecord | None:
    """B - A; its interval as of independent samples, so wider than need be with equal seeds."""
    if a.value is None or b.value is None:
        return None
    value = b.value - a.value
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return {"value": value}
    below = math.hypot(b.value - b.low, a.high - a.value)
    above = math.hypot(b.high - b.value, a.value - a.low)
    return {"value": value, "low": value - below, "high": value + above}


def _named(one: Result) -> str:
    run = one.evaluation.run
    return f"{one.path}, step {run.get('checkpoint_step')}, state {str(run.get('checkpoint'))[:12]}"

"""Two results beside each other: only figures of one protocol are compared."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.measures import protocols_compared, results
from ddpm_jax.measures.protocols_compared import Result
from ddpm_jax.measures.results import FigureRecord
from ddpm_jax.reporting.report.evaluations import Measured


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
    a, b = protocols_compared.read(first), protocols_compared.read(second)
    both = protocols_compared.compared(a.evaluation, b.evaluation)
    if not both.figures:
        settings = _settings(a, b, both.rows)
        raise UserError(f"{first} and {second} have no figure in common{settings}")
    if refused := protocols_compared.refused(both, allow):
        raise UserError(
            f"these are not measured alike: {protocols_compared.told(refused)}; evaluate one of "
            "them again, or name with --allow what may differ"
        )
    header = [f"A: {_named(a)}", f"B: {_named(b)}"]
    differing = {**both.protocol, **both.settings}
    differing |= dict(protocols_compared.differences(a.versions, b.versions, "versions"))
    header += [f"{field}: {x} and {y}" for field, (x, y) in differing.items()]
    tables = {title: (x.metrics, y.metrics) for title, (x, y) in both.rows.items()}
    data = [protocols_compared.of_model(one.evaluation) for one in (a, b)]
    tables["held-out data"] = data[0], data[1]
    parts = [_table(title, x, y) for title, (x, y) in tables.items() if {*x} & {*y}]
    return "\n\n".join(["\n".join(header), *parts])


def _settings(a: Result, b: Result, rows: Mapping[str, Any]) -> str:
    """What to say of results of samples that have no row in common."""
    if rows or not (a.evaluation.rows and b.evaluation.rows):
        return ""
    x, y = (" / ".join(map(protocols_compared.setting, one.evaluation.rows)) for one in (a, b))
    return f": their settings are {x}, and {y}"


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
    step = f", step {run['checkpoint_step']}" if "checkpoint_step" in run else ""
    return f"{one.path}{step}, state {str(run.get('checkpoint'))[:12]}"

"""What was measured: a table with intervals for each protocol, and the protocols side by side."""

from collections.abc import Sequence
from typing import Any

from ddpm_jax.reporting.report import protocols, results
from ddpm_jax.reporting.report.evaluations import Measured
from ddpm_jax.reporting.report.html import Html, join, note, short, table, tag
from ddpm_jax.reporting.report.labels import Labels, ordered
from ddpm_jax.reporting.report.protocols import Protocol, Protocols
from ddpm_jax.reporting.report.results import Result, titled
from ddpm_jax.reporting.report.runs import Run

MAX_UNREADABLE = 12
MAX_RESULTS = 300  # rows of all tables


def metrics(runs: Sequence[Run]) -> Html:
    """All results, a table for each protocol, then the protocols field by field."""
    parts: list[Html | None] = []
    for run in runs:
        if not run.evaluations.evaluations:
            reason = "has not been measured yet: evaluate writes DIR/eval/NAME.json."
            parts.append(note(f"{short(run.name)} {reason}"))
        parts.append(_unreadable(run))
    every = results.results(runs)
    grouped = Protocols(runs)
    if len(grouped.every) > 1:
        parts.append(
            note("Values in one table were measured by one protocol and may be compared; those of "
                 "different tables may not.")
        )  # fmt: skip
    room = MAX_RESULTS
    for protocol in grouped.every:
        rows = [r for r in every if grouped.of(r.evaluation) is protocol]
        if rows or any(map(results.of_data, protocol.evaluations)):
            parts.append(_table(protocol, rows[:room], runs))
            room -= len(rows[:room])
    if len(every) > MAX_RESULTS:
        parts.append(note(f"{len(every) - MAX_RESULTS} more rows are left out."))
    if grouped.every:
        parts.append(protocols.fields_table(grouped.every))
    return join(parts)


def _table(protocol: Protocol, rows: Sequence[Result], runs: Sequence[Run]) -> Html:
    """The results of one protocol, and what real data that the model never saw would have."""
    # The same for all of them, as far as it was measured.
    held_out: dict[str, Measured] = {}
    for evaluation in protocol.evaluations:
        held_out |= results.of_data(evaluation)
    labels = results.labels_of(protocol.evaluations)
    names = ordered([*(name for r in rows for name in r.row.metrics), *held_out], labels)
    cells: list[list[Any]] = [
        [_of(r, many=len(runs) > 1), *(_cell(r.row.metrics.get(name)) for name in names)]
        for r in rows
    ]
    if held_out:
        own = tag("span", "held-out data", tag("small", "real images, for comparison"))
        cells.append([own, *(_cell(held_out.get(name)) for name in names)])
    every = [m for r in rows for m in r.row.metrics.values()] + [*held_out.values()]
    ways = dict.fromkeys(m.interval for m in every if m.interval)
    text = protocols.described(protocol)
    return join([
        tag("h3", f"Protocol {protocol.letter}" + (f": {text}" if text else "")),
        table(["", *(_head(name, labels) for name in names)], cells,
              label=f"Metrics, protocol {protocol.letter}", class_="named"),
        note("↓ less is better, ↑ more is better, → 1 best near 1.",
             f" Intervals: {'; '.join(map(short, ways))}." if ways else None),
    ])  # fmt: skip


def _head(name: str, labels: Labels) -> list[Any]:
    """A figure's name, and below what it is."""
    label = labels[name].label if name in labels else name
    return [titled(name, labels), tag("small", short(label)) if label != name else None]


def _of(result: Result, many: bool) -> list[Any]:
    """What a row is of: run and evaluation, and below how was sampled."""
    name = result.evaluation.name
    title = f"{result.run.name}, {name}" if many else name
    return [
        short(title),
        tag("small", results.described(result.evaluation, result.row, result.sampled)),
    ]


def _cell(measured: Measured | None) -> Html:
    if measured is None:
        return tag("td", "")
    value, interval = results.figures(measured)
    return tag("td", value, tag("small", interval) if interval else None, class_="number")


def _unreadable(run: Run) -> Html | None:
    unreadable = run.evaluations.unreadable
    if not unreadable:
        return None
    texts = [f"{short(name)} ({reason})" for name, reason in unreadable[:MAX_UNREADABLE]]
    more = f"; and {len(unreadable) - len(texts)} more" if len(unreadable) > len(texts) else ""
    return note(
        f"Files in eval of {short(run.name)} that cannot be read: {'; '.join(texts)}{more}."
    )

"""What was measured: a table with intervals, protocols side by side, quality against NFE."""

import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.reporting.report.axes import number
from ddpm_jax.reporting.report.charts import Line, chart
from ddpm_jax.reporting.report.evaluations import Evaluation, Measured, Row, flat
from ddpm_jax.reporting.report.html import Html, join, note, short, table, tag
from ddpm_jax.reporting.report.runs import Run

# Which way is better; what is not here has none, or one that needs a sentence.
LOWER = ("fid", "fid_infinity", "kid", "sfid", "fd", "bpd")
HIGHER = ("is", "inception_score", "precision", "recall", "density", "coverage", "accuracy",
          "label_accuracy")  # fmt: skip
MAX_UNREADABLE = 12
MAX_CHARTS = 24
MAX_RESULTS = 300  # rows of the table


class Result(NamedTuple):
    """A row of an evaluation, with the run it is of (by its place) and the evaluation."""

    place: int
    run: Run
    evaluation: Evaluation
    row: Row


def metrics(runs: Sequence[Run]) -> Html:
    """All results in one table, then the protocols that they were measured by."""
    results = _results(runs)
    parts: list[Html | None] = []
    for run in runs:
        if not run.evaluations.evaluations:
            told = "has not been measured yet: scripts/evaluate.py writes DIR/eval/NAME.json."
            parts.append(note(f"{short(run.name)} {told}"))
        parts.append(_unreadable(run))
    if results or any(e.held_out for run in runs for e in run.evaluations.evaluations):
        parts.append(_table(runs, results))
        parts.append(_protocols(runs))
    return join(parts)


def against_nfe(runs: Sequence[Run]) -> Html:
    """Each metric against the number of network evaluations, a chart a protocol and setting."""
    charts: list[Html] = []
    results = [r for r in _results(runs) if _nfe(r.row) is not None]
    letters = _letters(runs)
    for key, group in _grouped(results, lambda r: (r.evaluation.measure, _setting(r.row))):
        measure, setting = key
        told = ", ".join(part for part in (setting, f"protocol {letters[measure]}") if part)
        names = dict.fromkeys(name for r in group for name in r.row.metrics)
        for name in names:
            lines = _by_nfe([r for r in group if name in r.row.metrics], name, len(runs) > 1)
            if (
                sum(len(line.x) for line in lines) > 1
                and len({x for ln in lines for x in ln.x}) > 1
            ):
                positive = all((line.y > 0).all() for line in lines)
                charts.append(
                    chart(f"{short(name)}{_arrow(name)}", lines, x_label="NFE", log_x=True,
                          log_y=positive and name in LOWER, note=told)
                )  # fmt: skip
    if not charts:
        return note(
            "It takes evaluations at two numbers of steps at least, by one protocol: give each its "
            "own --name."
        )
    left = len(charts) - MAX_CHARTS
    return join([
        note("NFE is the number of times that the network is evaluated for a sample. Bars are the "
             "intervals that were measured."),
        tag("div", *charts[:MAX_CHARTS], class_="charts"),
        note(f"{left} more charts are left out.") if left > 0 else None,
    ])  # fmt: skip


def _results(runs: Sequence[Run]) -> list[Result]:
    return [
        Result(k, run, evaluation, row)
        for k, run in enumerate(runs)
        for evaluation in run.evaluations.evaluations
        for row in evaluation.rows
    ]


def _table(runs: Sequence[Run], results: Sequence[Result]) -> Html:
    every = [e for run in runs for e in run.evaluations.evaluations]
    held_out = {(e.measure): e.held_out for e in every if e.held_out}
    letters = _letters(runs)
    names = dict.fromkeys(
        itertools.chain(
            (name for r in results for name in r.row.metrics),
            (name for found in held_out.values() for name in found),
        )
    )
    rows: list[list[Any]] = [
        [_titled(r, many=len(runs) > 1), letters[r.evaluation.measure],
         *(_cell(r.row.metrics.get(name)) for name in names)]
        for r in results[:MAX_RESULTS]
    ]  # fmt: skip
    rows += [
        ["held-out data", letters[measure], *(_cell(found.get(name)) for name in names)]
        for measure, found in held_out.items()
    ]
    more = len(results) - MAX_RESULTS
    head = ["", "protocol", *(f"{short(name)}{_arrow(name)}" for name in names)]
    intervals = dict.fromkeys(
        m.interval for r in results for m in r.row.metrics.values() if m.interval
    )
    told = f" Intervals: {short('; '.join(intervals))}." if intervals else ""
    return join([
        note("Values of one letter were measured by one protocol and may be compared; others may "
             f"not. ↓ less is better, ↑ more is better.{told}"),
        table(head, rows, label="Metrics"),
        note(f"{more} more rows are left out.") if more > 0 else None,
    ])  # fmt: skip


def _titled(result: Result, many: bool) -> list[Any]:
    """What a row is of: run and evaluation, and below how was sampled."""
    evaluation = result.evaluation
    name = f"{result.run.name}, {evaluation.name}" if many else evaluation.name
    step = evaluation.run.get("checkpoint_step")
    nfe = _nfe(result.row)
    told = [
        _sampler(evaluation),
        f"NFE {nfe:g}" if nfe is not None else "",
        _setting(result.row),
        f"step {step:,}" if isinstance(step, int) else "",
        short(evaluation.written)[:10],
    ]
    return [short(name), tag("small", ", ".join(part for part in told if part))]


def _cell(measured: Measured | None) -> Html:
    if measured is None:
        return tag("td", "")
    if measured.value is None:
        return tag("td", "undefined", class_="number")
    interval = None
    if measured.low is not None and measured.high is not None:
        interval = tag("small", f"{number(measured.low)} to {number(measured.high)}")
    return tag("td", number(measured.value), interval, class_="number")


def _protocols(runs: Sequence[Run]) -> Html:
    """The protocols field by field, those that differ marked."""
    letters = _letters(runs)
    fields = [flat(json.loads(measure)) for measure in letters]
    names = dict.fromkeys(name for one in fields for name in one)
    rows = []
    for name in names:
        told = [short(one.get(name, "")) for one in fields]
        kind = "value differs" if len(set(told)) > 1 else "value"
        cells = (tag("td", tag("code", text), class_=kind) for text in told)
        rows.append([tag("code", short(name)), *cells])
    head = ["field", *letters.values()]
    title = "How it was measured" if len(letters) == 1 else "How it was measured, by protocol"
    label = "Protocols"
    return tag("details", tag("summary", title), table(head, rows, label=label))


def _letters(runs: Sequence[Run]) -> dict[str, str]:
    """{protocol: "A", "B", ...} in the order in which they come."""
    every = dict.fromkeys(e.measure for run in runs for e in run.evaluations.evaluations)
    return {measure: _letter(k) for k, measure in enumerate(every)}


def _letter(k: int) -> str:
    return (_letter(k // 26 - 1) if k >= 26 else "") + chr(ord("A") + k % 26)


def _by_nfe(results: Sequence[Result], name: str, many: bool) -> list[Line]:
    """A line a sampler and checkpoint, each rising in NFE."""
    lines = []
    steps = {r.evaluation.run.get("checkpoint_step") for r in results}

    def series(r: Result) -> tuple[int, str]:
        step = r.evaluation.run.get("checkpoint_step")
        told = [r.run.name] if many else []
        told += [_sampler(r.evaluation)] + ([f"step {short(step)}"] if len(steps) > 1 else [])
        return r.place, ", ".join(told)

    samplers = list(dict.fromkeys(_sampler(r.evaluation) for r in results))
    for (place, told), group in _grouped(results, series):
        ordered = sorted(group, key=lambda r: _nfe(r.row) or 0.0)
        values = [r.row.metrics[name] for r in ordered]
        there = [k for k, v in enumerate(values) if v.value is not None]
        if not there:
            continue
        sampler = samplers.index(_sampler(group[0].evaluation))
        x, y, low, high = (
            np.array([of[k] for k in there], np.float64)
            for of in (
                [_nfe(r.row) for r in ordered],
                [v.value for v in values],
                [np.nan if v.low is None else v.low for v in values],
                [np.nan if v.high is None else v.high for v in values],
            )
        )
        colour, dash = (place, sampler) if many else (sampler, 0)
        lines.append(Line(told, x, y, colour, dash, low, high, points=True))
    return lines


def _grouped(results: Sequence[Result], key: Any) -> list[tuple[Any, list[Result]]]:
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return list(groups.items())


def _nfe(row: Row) -> float | None:
    nfe = row.setting.get("nfe")
    if isinstance(nfe, bool) or not isinstance(nfe, int | float) or not 0 < nfe < 1e9:
        return None
    return float(nfe)


def _setting(row: Row) -> str:
    """All of a row's setting but its NFE: "guidance_scale 2"."""
    rest = {name: value for name, value in row.setting.items() if name != "nfe"}
    return ", ".join(f"{short(name)} {_told(value)}" for name, value in rest.items())


def _told(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return number(value) if is_number and abs(value) < 1e300 else short(value)


def _sampler(evaluation: Evaluation) -> str:
    """The sampler and its order, if that is told: "dpm_solver_pp, order 3"."""
    sampling = evaluation.protocol.get("sampling")
    if not isinstance(sampling, dict):
        return ""
    order = sampling.get("order")
    told = short(sampling.get("sampler", "unknown sampler"))
    return f"{told}, order {short(order)}" if order is not None else told


def _arrow(name: str) -> str:
    return " ↓" if name in LOWER else " ↑" if name in HIGHER else ""


def _unreadable(run: Run) -> Html | None:
    found = run.evaluations.unreadable
    if not found:
        return None
    told = [f"{short(name)} ({reason})" for name, reason in found[:MAX_UNREADABLE]]
    more = f"; and {len(found) - len(told)} more" if len(found) > len(told) else ""
    return note(f"Files in eval of {short(run.name)} that cannot be read: {'; '.join(told)}{more}.")

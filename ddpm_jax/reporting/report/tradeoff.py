"""Quality against the number of network evaluations, a line a sampler."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ddpm_jax.reporting.report.charts import Line, chart, positive
from ddpm_jax.reporting.report.evaluations import Measured
from ddpm_jax.reporting.report.html import Html, join, note, tag
from ddpm_jax.reporting.report.labels import lower_is_better, ordered
from ddpm_jax.reporting.report.protocols import Protocols
from ddpm_jax.reporting.report.results import (
    Result,
    labels_of,
    nfe,
    results,
    samplings,
    setting,
    titled,
)
from ddpm_jax.reporting.report.runs import Run

MAX_CHARTS = 24


def against_nfe(runs: Sequence[Run]) -> Html:
    """Each metric against the number of network evaluations, a chart a protocol and setting."""
    parts: list[Html] = []
    left = 0
    drawn = 0
    protocols = Protocols(runs)
    counted = [r for r in results(runs) if nfe(r.row) is not None]
    groups = _grouped(counted, lambda r: (protocols.of(r.evaluation).letter, setting(r.row)))
    for (letter, text), group in groups:
        charts = list(_charts(group, runs))
        if not charts:
            continue
        room = max(MAX_CHARTS - drawn, 0)
        left += len(charts[room:])
        drawn += len(charts)
        if charts[:room]:
            title = ", ".join(part for part in (text, f"protocol {letter}") if part)
            parts.append(tag("h3", title))
            parts.append(tag("div", *charts[:room], class_="charts"))
    if not parts:
        return note(
            "It takes evaluations at two numbers of steps at least, by one protocol, each with a ",
            tag("code", "--name", class_="word"), " of its own.",
        )  # fmt: skip
    return join([
        note("NFE is the number of times that the network is evaluated for a sample. Bars are the "
             "intervals that were measured; samplers of one NFE stand a little apart."),
        *parts,
        note(f"{left} more charts are left out.") if left > 0 else None,
    ])  # fmt: skip


def _charts(group: Sequence[Result], runs: Sequence[Run]) -> Iterable[Html]:
    kinds = _kinds(group)
    dashes = list(dict.fromkeys(kinds.values()))
    compared = len({r.place for r in group}) > 1

    def line(place: int, kind: str, members: Sequence[Result], name: str) -> Line:
        # What was measured twice is one point.
        points = sorted({(nfe(r.row) or 0.0, *_numbers(r.row.metrics[name])) for r in members})
        x, y, low, high = np.array(points, np.float64).T
        dash = dashes.index(kind)
        # A run keeps its colour; where only one was measured, samplers have those of no run.
        colour = place if compared else dash + (len(runs) if len(runs) > 1 else 0)
        title = f"{runs[place].name}, {kind}" if len(runs) > 1 else kind
        return Line(title, x, y, colour, dash, low, high, points=True)

    labels = labels_of(r.evaluation for r in group)
    for name in ordered((name for r in group for name in r.row.metrics), labels):
        having = [r for r in group if name in r.row.metrics]
        every = _grouped(having, lambda r: (r.place, kinds[id(r.evaluation)]))
        lines = [line(place, kind, members, name) for (place, kind), members in every]
        lines = [one for one in lines if np.isfinite(one.y).any()]
        places = sorted({x for one in lines for x in one.x[np.isfinite(one.y)]})
        if len(places) > 1:
            title = titled(name, labels)
            log_y = lower_is_better(name, labels) and positive(lines)
            yield chart(title, lines, x_label="NFE", log_x=True, x_ticks=places, log_y=log_y)


def _kinds(results: Sequence[Result]) -> dict[int, str]:
    """{id of an evaluation: its sampler}, and its checkpoint where its run has several."""
    names = samplings([r.evaluation for r in results])
    steps: dict[int, set[str]] = {}
    for r in results:
        steps.setdefault(r.place, set()).add(_step(r))
    several = {id(r.evaluation): _step(r) for r in results if len(steps[r.place]) > 1}
    return {k: f"{name}, {several[k]}" if k in several else name for k, name in names.items()}


def _step(result: Result) -> str:
    step = result.evaluation.run.get("checkpoint_step")
    return f"step {step:,}" if isinstance(step, int) else "unknown step"


def _numbers(measured: Measured) -> tuple[float, ...]:
    return tuple(math.nan if n is None else float(n) for n in measured[:3])


def _grouped(
    results: Sequence[Result], key: Callable[[Result], Any]
) -> list[tuple[Any, list[Result]]]:
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return list(groups.items())

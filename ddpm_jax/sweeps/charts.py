"""A sweep in pictures: curves with bands, figures against fields, heat maps of two fields."""

# Over 300 lines: three kinds of pictures that share how rows are grouped by what else varies.

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ddpm_jax.reporting.report import curves
from ddpm_jax.reporting.report.axes import number
from ddpm_jax.reporting.report.charts import COLOURS, Line, chart, positive
from ddpm_jax.reporting.report.heat import heat_map
from ddpm_jax.reporting.report.html import Html, join, note, short, tag
from ddpm_jax.reporting.report.labels import LOWER
from ddpm_jax.reporting.report.runs import EVALUATED
from ddpm_jax.sweeps import statistics, tables
from ddpm_jax.sweeps.aggregates import Report, Row, Table
from ddpm_jax.sweeps.results import NFE

MAX_CHARTS = 48
MAX_MAPS = 24
MAX_LINES = COLOURS  # that can be told apart
MAX_VALUES = 12  # of a field along a heat map
DECADE = 10.0  # between the ends of an axis by logarithm, at least
FILLED = 0.5  # of a heat map's cells, at least
STEPS = "sample.num_steps"  # what NFE follows from
CURVES = {"loss": "Loss in training", "validation_loss": "Held-out loss"}


def by_step(report: Report) -> Html:
    """Curves of training: the mean over seeds, and a band from the least to the largest.

    Of cells that begin with different configs the losses are not the same: a chart for each.
    """
    groups: dict[str, dict[str, curves.Metrics]] = {}  # of trainings, by what differs
    of_config: dict[str, dict[str, Mapping[str, curves.Metrics]]] = {}
    for cells in report.settings.values():
        for one in cells:
            values = {n: v for n, v in one.cell.values.items() if n not in one.cell.sampling}
            if one.curves is not None:
                group = groups.setdefault(named(values), {})
                group[one.cell.training] = one.curves
                of_config.setdefault(one.cell.config, {})[named(values)] = group
    logged = [m for group in groups.values() for m in group.values()]
    extra = sorted({n for m in logged for n in m.curves if n.startswith(EVALUATED)})
    labels = report.results.labels
    titles = {
        n: labels[base].label if (base := n.removeprefix(EVALUATED)) in labels else base
        for n in extra
    }
    charts = [
        _curve(of_one, name, f"{title}, {config}" if len(of_config) > 1 else title)
        for config, of_one in of_config.items()
        for name, title in CURVES.items()
    ]
    charts += [_curve(groups, name, title) for name, title in titles.items()]
    if not any(charts):
        return note("No curves were logged.")
    several = any(len(group) > 1 for group in groups.values())
    about = "Lines are means over seeds, bands reach from the least seed to the largest."
    return join([note(about) if several else None, tag("div", *charts, class_="charts")])


def against_fields(report: Report) -> Html:
    """Each figure against each numeric field that the sweep varies, and against NFE."""
    drawn = [
        figure
        for table in report.tables
        for field in _fields(report, table)
        if (figure := _against(report, table, field)) is not None
    ]
    if not drawn:
        return note("No numeric field takes two values.")
    left = len(drawn) - MAX_CHARTS
    return join([
        note("Small points are seeds; large ones are their means, with Student's interval where "
             "there are two seeds or more."),
        tag("div", *drawn[:MAX_CHARTS], class_="charts"),
        note(f"{left:,} more charts are left out.") if left > 0 else None,
    ])  # fmt: skip


def heat_maps(report: Report) -> Html | None:
    """Each figure over each two fields that make a grid; None where no two do."""
    maps = [
        one
        for table in report.tables
        if not report.results.counted(table.figure)
        for pair in itertools.combinations(report.results.varied, 2)
        for one in _maps(report, table, *pair)
    ]
    if not maps:
        return None
    left = len(maps) - MAX_MAPS
    return join([
        note("Means over seeds. The stronger the colour, the better within a map; of figures that "
             "are better neither way, the larger. The best cell is framed."),
        tag("div", *maps[:MAX_MAPS], class_="charts"),
        note(f"{left:,} more heat maps are left out.") if left > 0 else None,
    ])  # fmt: skip


def named(values: Mapping[str, Any]) -> str:
    """Values of fields as a legend has them: "learning_rate=0.001, num_steps=5"."""
    last = [name.rpartition(".")[2] for name in values]
    return ", ".join(
        f"{word if last.count(word) == 1 else name}={spelt(value)}"
        for word, (name, value) in zip(last, values.items(), strict=True)
    )


def spelt(value: Any) -> str:
    """A value of a field: 0.001, true, 1x2."""
    if isinstance(value, tuple | list):
        return "x".join(map(spelt, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _curve(groups: Mapping[str, Mapping[str, Any]], name: str, title: str) -> Html | None:
    lines = []
    for setting, logged in groups.items():
        points = [found for m in logged.values() if (found := m.points(name)) is not None]
        if points:
            lines.append(_banded(setting or "all", points, smooth=name == "loss"))
    if not lines:
        return None
    about = "Smoothed. " if name == "loss" else ""
    if len(lines) > MAX_LINES:  # those that end lowest: of losses and distances the best
        about += f"The {MAX_LINES} of {len(lines):,} settings that end lowest."
        kept = sorted(lines, key=lambda line: float(line.y[-1]))[:MAX_LINES]
        lines = [line for line in lines if line in kept]
    lines = [_coloured(line, k) for k, line in enumerate(lines)]
    return chart(title, lines, x_label="step", log_y=positive(lines), note=about.strip())


def _banded(setting: str, points: Sequence[curves.Points], *, smooth: bool) -> Line:
    """The mean of several curves with a band, at the steps of the longest."""
    steps = max((one.steps for one in points), key=len)
    values = [curves.smooth(one) if smooth else one.mean for one in points]
    every = np.array([
        np.interp(steps, one.steps, value, left=np.nan, right=np.nan)
        for one, value in zip(points, values, strict=True)
    ])  # fmt: skip
    # Where a seed has no value there is no mean of all.
    mean, low, high = every.mean(axis=0), every.min(axis=0), every.max(axis=0)
    band = (low, high) if len(points) > 1 else (None, None)
    return Line(setting, steps, mean, low=band[0], high=band[1])


def _coloured(line: Line, k: int) -> Line:
    return dataclasses.replace(line, colour=k, dash=k // COLOURS, points=len(line.x) == 1)


def _fields(report: Report, table: Table) -> list[str]:
    """The fields that a figure is drawn against."""
    if report.results.counted(table.figure):
        return []
    fields = [n for n in report.results.varied if len({*_numbers(table.rows, n)}) > 1]
    if report.results.of_training(table.figure):
        sampled = {n for one in report.results.cells for n in one.cell.sampling}
        return [n for n in fields if n not in sampled]
    of_nfe = _nfe(report, table)
    counts = {*of_nfe.values()}
    steps = {row.setting: row.values.get(STEPS) for row in table.rows}
    # Where every step is one evaluation, NFE is the number of steps by another name.
    return [*fields, NFE] if len(counts) > 1 and of_nfe != steps else fields


def _nfe(report: Report, table: Table) -> dict[str, float]:
    """The number of network evaluations of each setting, for the row that a figure is of."""
    name = table.figure.partition(", ")
    wanted = NFE + name[1] + name[2]
    of_row = next((one for one in report.tables if one.figure == wanted), None)
    return {r.setting: r.summary.mean for r in of_row.rows if r.summary} if of_row else {}


def _numbers(rows: Iterable[Row], field: str) -> list[float]:
    values = (row.values.get(field) for row in rows)
    return [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]


def _against(report: Report, table: Table, field: str) -> Html | None:
    of_nfe = _nfe(report, table)
    apart = STEPS if field == NFE else field

    def place(row: Row) -> float | None:
        if field == NFE:
            return of_nfe.get(row.setting)
        return next(iter(_numbers([row], field)), None)

    rows = [row for row in _distinct(report, table) if row.summary and place(row) is not None]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(named(_rest(report, table, row, [apart])), []).append(row)
    # Nothing is compared along this field by a line of one point.
    along = {name: members for name, members in groups.items() if len(members) > 1}
    about = ""
    if len(groups) > MAX_LINES and len(along) <= len(groups) / 2:  # as of random combinations
        about = f"{len(rows):,} settings, which differ in other fields too."
        groups = {"all settings": rows}
    elif len(along) > MAX_LINES:
        about = f"{MAX_LINES} of {len(along):,} combinations of the other fields"
        about += ": the best." if table.label.better else "."
        groups = _most(along, table.label.better)
    elif along:
        groups = along
    lines: list[Line] = []
    for k, (name, members) in enumerate(groups.items()):
        members.sort(key=lambda row: place(row) or 0.0)
        lines += _seeds_and_means(name or table.figure, members, place, k, members is not rows)
    places = sorted({place(row) or 0.0 for row in rows})
    if len(places) < 2 or not lines:
        return None
    log_x = places[0] > 0 and places[-1] / places[0] >= DECADE
    log_y = table.label.better == LOWER and positive(lines) and _decades(lines)
    return chart(
        f"{table.figure}{tables.arrow_of(report, table)} against {field}", lines,
        x_label="network evaluations" if field == NFE else field,
        log_x=log_x, log_y=log_y, x_ticks=_places_to_write(places, log_x), note=about,
    )  # fmt: skip


def _places_to_write(places: Sequence[float], log: bool) -> Sequence[float]:
    """Where numbers stand along an axis: at the values, or of many at the powers of ten."""
    if len(places) <= MAX_VALUES or not log:
        return places if len(places) <= MAX_VALUES else ()
    low, high = math.ceil(math.log10(places[0])), math.floor(math.log10(places[-1]))
    return [10.0**power for power in range(low, high + 1)]


def _most(groups: Mapping[str, list[Row]], better: str) -> dict[str, list[Row]]:
    """The groups of the best means, in their order; the first where neither way is better."""
    scores = {
        name: min(float(statistics.scored([*row.seeds.values()], better).mean()) for row in rows)
        for name, rows in groups.items()
    }
    kept = sorted(scores, key=lambda name: scores[name] if better else 0.0)[:MAX_LINES]
    return {name: rows for name, rows in groups.items() if name in kept}


def _seeds_and_means(
    name: str,
    rows: Sequence[Row],
    place: Callable[[Row], float | None],
    colour: int,
    joined: bool,
) -> list[Line]:
    """Faint points of seeds, and the means in front of them."""
    dots = [(place(row), value) for row in rows for value in row.seeds.values()]
    x, y = np.array(dots, np.float64).T
    behind = Line("", x, y, colour, points=True, joined=False, faint=True)
    means = [
        (place(row), one.mean, *(one.interval[1:3] if one.interval else (math.nan, math.nan)))
        for row in rows
        if (one := row.summary) is not None
    ]
    x, y, low, high = np.array(means, np.float64).T
    return [behind, Line(name, x, y, colour, colour // COLOURS, low, high, True, joined)]


def _distinct(report: Report, table: Table) -> list[Row]:
    """The rows, of a figure of trainings one of each training."""
    rows = {named(_rest(report, table, row, [])): row for row in reversed(table.rows)}
    return [*reversed(rows.values())]


def _rest(report: Report, table: Table, row: Row, without: Sequence[str]) -> dict[str, Any]:
    """What else is set in a row, of all that the figure depends on and that varies."""
    of_training = report.results.of_training(table.figure)
    sampling = report.settings[row.setting][0].cell.sampling if of_training else {}
    return {
        n: row.values[n]
        for n in report.results.varied
        if n in row.values and n not in without and n not in sampling
    }


def _decades(lines: Sequence[Line]) -> bool:
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in lines])
    return bool(values.max() >= DECADE * values.min())


def _maps(report: Report, table: Table, across: str, down: str) -> list[Html]:
    """A heat map for each combination of the other fields."""
    groups: dict[str, list[Row]] = {}
    for row in _distinct(report, table):
        rest = _rest(report, table, row, [across, down])
        if row.summary and {across, down} <= {*_rest(report, table, row, [])}:
            groups.setdefault(named(rest), []).append(row)
    maps = [_map(report, table, rows, name, across, down) for name, rows in groups.items()]
    return [one for one in maps if one is not None]


def _map(
    report: Report, table: Table, rows: Sequence[Row], rest: str, across: str, down: str
) -> Html | None:
    columns, lines = (_ordered(row.values[field] for row in rows) for field in (across, down))
    grid = len(columns) * len(lines)
    if min(len(columns), len(lines)) < 2 or max(len(columns), len(lines)) > MAX_VALUES:
        return None
    if len(rows) < FILLED * grid:
        return None
    cells = {(lines.index(r.values[down]), columns.index(r.values[across])): r for r in rows}
    better = table.label.better
    scores = {
        at: float(statistics.scored([*row.seeds.values()], better).mean())
        for at, row in cells.items()
    }
    values = {
        at: (scores[at] if better else row.summary.mean, number(row.summary.mean))
        for at, row in cells.items()
        if row.summary is not None
    }
    title = f"{table.figure}{tables.arrow_of(report, table)}" + (f", {rest}" if rest else "")
    return heat_map(
        short(title),
        [*map(spelt, columns)],
        [*map(spelt, lines)],
        values,
        across=across,
        down=down,
        low_is_dark=bool(better),
        best=min(scores, key=lambda at: scores[at]) if better else None,
    )


def _ordered(values: Iterable[Any]) -> list[Any]:
    """Each value once, numbers by size."""
    every = list(dict.fromkeys(values))
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in every)
    return sorted(every) if plain else every

"""A sweep's report as one HTML file that loads nothing: tables, curves, figures against fields."""

from collections.abc import Sequence

from ddpm_jax.reporting.report import results as figures
from ddpm_jax.reporting.report import sheet
from ddpm_jax.reporting.report.evaluations import Measured
from ddpm_jax.reporting.report.html import Html, join, note, short, table, tag
from ddpm_jax.reporting.report.sheet import Section
from ddpm_jax.sweeps import charts, row_numbers, statements, tables
from ddpm_jax.sweeps.aggregates import Report, Row, Table

MAX_ROWS = 300  # of a table; report.csv has all


def page(report: Report) -> str:
    """The report of a sweep, the same for the same results: without dates and paths."""
    maps = charts.heat_maps(report)
    said = _statements(report)
    sections: list[Section] = [
        *([("statements", "Statements", said)] if said else []),
        ("figures", "Figures", _figures(report)),
        ("training", "Training", charts.by_step(report)),
        ("fields", "Against what was varied", charts.against_fields(report)),
        *([("two", "Two fields at a time", maps)] if maps else []),
        ("cells", "Cells", _cells(report)),
    ]
    name = report.results.sweep.path.stem
    return sheet.page(name, sections, kicker="Sweep", below=tag("p", report.counts))


def _figures(report: Report) -> Html:
    parts: list[Html | None] = [note(text) for text in tables.missing(report)]
    parts += [note(text) for text in report.results.notes]
    parts.append(tag("ul", *(tag("li", text) for text in tables.legend(report)), class_="note"))
    if not report.tables:
        parts.append(note("There are no figures: nothing was measured, and nothing validated."))
    parts += [_table(report, one) for one in report.tables]
    return join(parts)


def _statements(report: Report) -> Html | None:
    """What the sweep file's statements come to; None where it makes none."""
    found = statements.rows(report)
    if not found:
        return None
    head = ["statement", "figure", *(short(name) for name in report.settings)]
    lines = [[one.statement, one.figure, *one.values.values()] for one in found]
    return join([note(statements.LEGEND), table(head, lines, label="Statements", class_="named")])


def _table(report: Report, one: Table) -> Html:
    """A figure of all settings: the best one in colour, the baseline in its own words."""
    compared, bootstrapped = tables.compared(one), tables.bootstrapped(one)
    head: list[str] = ["setting", "n", "mean"]
    head += ["difference", "", "p (Holm)"] if compared else []
    drawn_again = tables.of_samples(one)
    head += ["std", *(["sample std"] if drawn_again else [])]
    head += ["bootstrap"] if bootstrapped else []
    rows = [_row(row, one, compared, drawn_again, bootstrapped) for row in one.rows[:MAX_ROWS]]
    left = len(one.rows) - MAX_ROWS
    title = short(one.figure) + tables.arrow_of(report, one)
    label = one.label.label
    return join([
        tag("h3", title, tag("small", f" {label}") if label != one.figure else None),
        table(head, rows, label=title, class_="named"),
        note(tables.best_text(one, one.best)) if one.best else None,
        note(f"{left:,} more settings are in report.csv.") if left > 0 else None,
    ])  # fmt: skip


def _row(
    row: Row, one: Table, compared: bool, drawn_again: bool, bootstrapped: bool
) -> Sequence[Html | str]:
    texts = row_numbers.written(row)
    own, other = row.summary, row.difference
    flags = tag("small", "; ".join(row.flags)) if row.flags else None
    low, high = (own.interval.low, own.interval.high) if own and own.interval else (None, None)
    cells: list[Html | str] = [
        parted(row.setting),
        tag("td", texts["n"], flags, class_="number"),
        _cell(Measured(own.mean, low, high), best=one.is_best(row)) if own else tag("td"),
    ]
    if compared:
        cells += [
            _cell(Measured(other.value, other.low, other.high)) if other else tag("td"),
            tag("td", texts["word"]),
            tag("td", texts["p_holm"], class_="number"),
        ]
    cells.append(tag("td", texts["std"], class_="number"))
    if drawn_again:
        cells.append(tag("td", texts["sample_std"], class_="number"))
    if bootstrapped:
        boot = own.bootstrap if own else None
        text = f"{texts['bootstrap_low']} to {texts['bootstrap_high']}" if boot else ""
        cells.append(tag("td", text, class_="number"))
    return cells


def parted(name: str) -> Html:
    """A name of a setting or a cell, which may break after each comma and copies as it is."""
    parts = short(name).split(",")
    ends = [f"{part}," for part in parts[:-1]] + parts[-1:]
    return tag("div", *(tag("span", part) for part in ends), class_="parts")


def _cell(measured: Measured, *, best: bool = False) -> Html:
    """A figure, and below it its interval."""
    value, interval = figures.figures(measured)
    small = tag("small", interval) if interval else None
    return tag("td", value, small, class_="number changed" if best else "number")


def _cells(report: Report) -> Html:
    """Which cells there are, and which of them are in the figures."""
    done = {one.cell.name for one in report.results.cells}
    rows = [
        [parted(cell.name), f"{cell.seed}", "done" if cell.name in done else "not done"]
        for cell in report.results.sweep.cells
    ]
    left = len(rows) - MAX_ROWS
    return join([
        table(["cell", "seed", ""], rows[:MAX_ROWS], label="Cells", class_="named"),
        note(f"{left:,} more cells are in plan.json.") if left > 0 else None,
    ])  # fmt: skip

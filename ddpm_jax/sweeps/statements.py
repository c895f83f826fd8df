"""A sweep file's statements beside the figures that speak of them, a column for each setting.

statements = {"Samples are diverse": ("coverage", "recall")}
"""

from typing import Any, NamedTuple

from ddpm_jax.reporting.report.labels import arrow
from ddpm_jax.sweeps import row_numbers
from ddpm_jax.sweeps.aggregates import Report, Row

LEGEND = (
    "Means over training seeds, with Student's 95% intervals where there are two seeds or more. A "
    "setting without a figure has none of that name."
)


class Said(NamedTuple):
    """A figure that speaks of a statement.

    Attributes:
      statement: the text; "" in the rows after its first one.
      figure: its name, with an arrow to where it is better.
      values: {setting: "mean (low to high)"}, "" for none.
    """

    statement: str
    figure: str
    values: dict[str, str]


def rows(report: Report) -> list[Said]:
    """A row for each figure of each statement, in the file's order; [] without statements."""
    labels = report.results.labels
    return [
        Said(text if not k else "", figure + arrow(figure, labels), _values(report, figure))
        for text, figures in report.results.sweep.statements.items()
        for k, figure in enumerate(figures)
    ]


def markdown(report: Report) -> list[str]:
    """The parts of report.md; none without statements."""
    found = rows(report)
    if not found:
        return []
    head = ["statement", "figure", *(name.replace("|", "\\|") for name in report.settings)]
    lines = [head, ["---"] * len(head)]
    lines += [[one.statement, one.figure, *one.values.values()] for one in found]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return ["## Statements", LEGEND, table]


def record(report: Report) -> list[dict[str, Any]]:
    """The names alone, for report.json, where the figures stand beside them."""
    stated = report.results.sweep.statements
    return [{"statement": text, "figures": [*figures]} for text, figures in stated.items()]


def _values(report: Report, figure: str) -> dict[str, str]:
    found = {row.setting: row for one in report.tables if one.figure == figure for row in one.rows}
    return {name: _text(found[name]) if name in found else "" for name in report.settings}


def _text(row: Row) -> str:
    texts = row_numbers.written(row)
    interval = f" ({texts['low']} to {texts['high']})" if texts["low"] else ""
    few = f"; {', '.join(row.flags)}" if row.flags else ""
    return f"{texts['mean']}{interval}{few}"

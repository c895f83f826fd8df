"""A heat map: a table whose cells are the darker, the more there is, with the numbers in them."""

import math
from collections.abc import Mapping, Sequence

from ddpm_jax.reporting.report.html import Html, table, tag

DARKEST = 55  # per cent of the colour: what is written on it stays legible


def heat_map(
    title: str,
    columns: Sequence[str],
    rows: Sequence[str],
    values: Mapping[tuple[int, int], tuple[float, str]],
    *,
    across: str,
    down: str,
    low_is_dark: bool = False,
    best: tuple[int, int] | None = None,
    note: str = "",
) -> Html:
    """A heat map as a <figure>.

    Args:
      title: what the values are.
      columns, rows: how they are headed.
      values: {(row, column): (value, its text)}; a cell without one stays empty.
      across, down: what columns and rows are.
      low_is_dark: the darker, the less: where less is better.
      best: (row, column) of a cell to be marked.
      note: a sentence below the title.
    """
    finite = [value for value, _ in values.values() if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)

    def cell(row: int, column: int) -> Html:
        value, text = values.get((row, column), (math.nan, ""))
        if not math.isfinite(value):
            return tag("td", text)
        share = (value - low) / (high - low) if high > low else 0.5
        share = DARKEST * (1 - share if low_is_dark else share)
        mark = "best" if (row, column) == best else None
        return tag("td", text, class_=mark, style=f"--share:{share:.1f}")

    body = [[name, *(cell(k, j) for j in range(len(columns)))] for k, name in enumerate(rows)]
    # Each name keeps its arrow; between them a line may end, so that the columns stay in sight.
    corner = " ".join([f"{down}\u00a0\N{DOWNWARDS ARROW}", f"{across}\u00a0\N{RIGHTWARDS ARROW}"])
    return tag(
        "figure",
        tag("figcaption", tag("b", title), tag("span", note) if note else None),
        table([corner, *columns], body, label=title, class_="heat"),
    )

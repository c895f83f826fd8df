"""Tables, their Markdown and JSON, and the figure of a report."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Say = Callable[[str], None]
Draw = Callable[[Any], None]
HOLDS, FAILS, DEVIATES, DIFFERS = "holds", "FAILS", "deviates", "differs"
# Okabe and Ito's colours, which the colour-blind tell apart; one an order of convergence.
COLOURS = {1: "#000000", 2: "#0072B2", 3: "#D55E00", 4: "#009E73"}
MARKERS = "osD^vP*Xh"


@dataclasses.dataclass(frozen=True)
class Table:
    """A titled table; the last cell of a row is its verdict. `text` stands before it."""

    title: str
    text: str
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Line:
    """Errors against numbers of steps, of a method of this order; the fitted slope is shown."""

    label: str
    sizes: Sequence[int]
    errors: Sequence[float]
    order: int
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot of the figure."""

    title: str
    ylabel: str
    lines: list[Line]


@dataclasses.dataclass(frozen=True)
class Section:
    """What one module measured; details, by name, go to the JSON file alone.

    `drawings`: figures of its own, each a file's name and what draws it on a matplotlib Figure.
    """

    tables: list[Table]
    panels: list[Panel] = dataclasses.field(default_factory=list)
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    drawings: dict[str, Draw] = dataclasses.field(default_factory=dict)


def slope(sizes: Sequence[int], errors: Sequence[float]) -> float:
    """The fitted order of convergence: of a line through log error against log size."""
    return float(-np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def verdict(ok: bool) -> str:
    """Of a claim of this package."""
    return HOLDS if ok else FAILS


def failures(sections: dict[str, Section]) -> list[str]:
    """The rows that fail."""
    return [
        f"{table.title}: {row[0]}"
        for section in sections.values()
        for table in section.tables
        for row in table.rows
        if row[-1] == FAILS
    ]


def write(folder: Path, sections: dict[str, Section], head: str) -> None:
    """conformance.json, conformance.md under `head`, conformance.png of the panels; drawings."""
    whole = {name: dataclasses.asdict(section) for name, section in sections.items()}
    for name, section in sections.items():
        del whole[name]["drawings"]
        for file, draw in section.drawings.items():
            _draw(folder / file, draw)
    text = json.dumps(whole, indent=1, default=float) + "\n"
    (folder / "conformance.json").write_text(text, encoding="utf-8")
    panels = [panel for section in sections.values() for panel in section.panels]
    if panels:
        _plot(folder / "conformance.png", panels)
    body = "\n".join([head, *(markdown(t) for s in sections.values() for t in s.tables)])
    (folder / "conformance.md").write_text(body, encoding="utf-8")


def _draw(path: Path, draw: Draw) -> None:
    import matplotlib.figure  # here: only the report needs it

    figure = matplotlib.figure.Figure(layout="constrained")
    draw(figure)
    figure.savefig(path, dpi=110)


def markdown(table: Table) -> str:
    """The table under its title and text."""
    rows = [table.header, ("---",) * len(table.header), *table.rows]
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return f"## {table.title}\n\n{table.text}\n\n" + "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3f}"
    if isinstance(value, tuple | list):
        return ", ".join(f"{v:.1e}" if 0 < abs(v) < 0.1 else f"{v:.2f}" for v in value)
    return str(value)


def _plot(path: Path, panels: Sequence[Panel]) -> None:
    import matplotlib.figure  # here: only the report needs it

    figure = matplotlib.figure.Figure(figsize=(6.2 * len(panels), 6.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for line, marker in zip(panel.lines, MARKERS * 2, strict=False):
            axes.loglog(
                line.sizes,
                line.errors,
                marker=marker,
                markersize=5,
                linestyle="--" if line.dashed else "-",
                color=COLOURS[line.order],
                label=f"{line.label}: {slope(line.sizes, line.errors):.2f}",
            )
        ticks = sorted({size for line in panel.lines for size in line.sizes})
        axes.set_xticks(ticks, [str(size) for size in ticks])
        axes.minorticks_off()
        axes.set(title=panel.title, xlabel="number of steps", ylabel=panel.ylabel)
        axes.grid(color="0.9")
        axes.legend(title="fitted slope", fontsize=8.5, loc="lower left")
    figure.savefig(path, dpi=110)

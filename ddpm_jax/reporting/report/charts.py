"""Line charts as SVG that the page's own style colours: by width, by theme, on paper.

The drawing fills whatever box it is given, with strokes that keep their width; numbers beside it
are HTML, so they keep their size on a phone. Where the script runs, a chart tells its values under
the pointer or at the arrow keys.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from ddpm_jax.reporting.report.axes import Axis, axis, number
from ddpm_jax.reporting.report.html import Html, join, short, tag

UNITS = 1000  # of the drawing, in both directions
COLOURS = 8
TICKS = {"x": 6, "y": 5}  # at most, about
TICK_ROOM = 0.09  # of the axis along
ASIDE = 16.0  # units between lines with bars
ASIDES = 70.0  # units that all of them take at most
DASHES = ("", "7 4", "2 4", "9 3 2 3")


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve of a chart.

    Attributes:
      name: in the legend, and where values are listed.
      x, y: float [N]; what is not finite is a gap.
      colour, dash: which ones, from 0 on; they come again after the last.
      low, high: the band around it, or the ends of its bars; None for none.
      points: mark each value, with bars instead of a band.
      joined: draw the way from value to value.
      faint: behind the others, in neither legend nor values.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: int = 0
    dash: int = 0
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    points: bool = False
    joined: bool = True
    faint: bool = False


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    x_ticks: Sequence[float] = (),
    note: str = "",
) -> Html:
    """A chart as a <figure>.

    Args:
      title: what is drawn.
      lines: at least one.
      x_label, y_label: of the axes.
      log_x, log_y: by logarithm, where there are positive values.
      x_ticks: where to write numbers, if not at round ones; those without room are left out.
      note: a sentence below the title.
    """
    marked = any(line.points for line in lines)
    across = axis([line.x for line in lines], log=log_x, pad=0.04 if marked else 0.0)
    heights = [a for ln in lines for a in (ln.y, ln.low, ln.high) if a is not None]
    up = axis(heights, log=log_y, pad=0.06)
    clear = [line for line in lines if not line.faint]
    summary = _summary(title, clear, x_label)
    drawing = tag(
        "svg",
        *(_rule(place) for place in up.place(np.array(up.ticks(TICKS["y"])))),
        *(
            _drawn(line, across, up, aside)
            for line, aside in zip(lines, _asides(lines), strict=True)
        ),
        viewBox=f"0 0 {UNITS} {UNITS}",
        preserveAspectRatio="none",
        role="img",
        aria_label=summary,
    )
    area = tag(
        "div",
        drawing,
        _ticks(across, "x", _with_room(across, x_ticks) or across.ticks(TICKS["x"])),
        _ticks(up, "y", up.ticks(TICKS["y"])),
        tag("i", class_="cursor", hidden=True),
        class_="area",
    )
    return tag(
        "figure",
        tag("figcaption", tag("b", title), tag("span", note) if note else None),
        _legend(clear),
        tag("p", y_label, class_="y-label") if y_label else None,
        tag("div", area, class_="plot", tabindex="0", role="group", aria_label=f"{title}: values"),
        tag("p", x_label, class_="x-label"),
        tag("output", _values(clear, x_label)),
        class_="chart",
        data_plot=_data(clear, across, x_label),
    )


def positive(lines: Sequence[Line]) -> bool:
    """All that is drawn, bars and bands too, is above 0, and so may be drawn by logarithm."""
    drawn = [a for line in lines for a in (line.y, line.low) if a is not None]
    finite = [a[np.isfinite(a)] for a in drawn]
    return all(len(a) == 0 or a.min() > 0 for a in finite)


def _asides(lines: Sequence[Line]) -> list[float]:
    """How far each line stands aside, so that bars at one place do not hide each other."""
    barred = [k for k, line in enumerate(lines) if line.points and line.low is not None]
    middle = (len(barred) - 1) / 2
    width = min(ASIDE, ASIDES / max(len(barred), 1))
    asides = {k: width * (place - middle) for place, k in enumerate(barred)}
    # What is behind a line with bars stands where it stands.
    behind = {k - 1: by for k, by in asides.items() if k and lines[k - 1].faint}
    return [asides.get(k, behind.get(k, 0.0)) for k in range(len(lines))]


def _with_room(across: Axis, ticks: Sequence[float]) -> list[float]:
    """Ticks, but those that are too near to the one before."""
    kept: list[float] = []
    for tick, place in zip(ticks, across.place(np.array(ticks)), strict=True):
        if not kept or place - across.place(np.array(kept[-1])) >= TICK_ROOM:
            kept.append(tick)
    return kept


def _drawn(line: Line, across: Axis, up: Axis, aside: float) -> Html:
    x, y = UNITS * across.place(line.x) + aside, UNITS * (1 - up.place(line.y))
    style = f"c{line.colour % COLOURS}" + (" faint" if line.faint else "")
    parts = []
    if line.low is not None and line.high is not None:
        low, high = (UNITS * (1 - up.place(v)) for v in (line.low, line.high))
        if line.points:
            ends = zip(x, low, high, strict=True)
            bars = "".join(
                f"M{a:.1f} {b:.1f}V{c:.1f}" for a, b, c in ends if np.isfinite(b + c + a)
            )
            parts.append(tag("path", d=bars, class_="bar"))
        else:
            parts.append(tag("path", d=_band(x, low, high), class_="band"))
    dash = DASHES[line.dash % len(DASHES)]
    if line.joined:
        parts.append(tag("path", d=_path(x, y), class_="line", stroke_dasharray=dash or None))
    if line.points:
        # A stroke of no length with round ends: a circle, however the drawing is stretched.
        dots = "".join(
            f"M{a:.1f} {b:.1f}h0" for a, b in zip(x, y, strict=True) if np.isfinite(a + b)
        )
        parts.append(tag("path", d=dots, class_="dots"))
    return tag("g", *parts, class_=style)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """The way through the points, starting again after each gap."""
    words, pen = [], "M"
    for a, b in zip(x, y, strict=True):
        if np.isfinite(a + b):
            words.append(f"{pen}{a:.1f} {b:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(words)


def _band(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    finite = np.isfinite(x + low + high)
    x, low, high = x[finite], low[finite], high[finite]
    around = [*zip(x, high, strict=True), *zip(x[::-1], low[::-1], strict=True)]
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in around) + "Z" if around else ""


def _rule(place: float) -> Html:
    return tag("path", d=f"M0 {UNITS * (1 - place):.1f}H{UNITS}", class_="rule")


def _ticks(on: Axis, which: str, ticks: Sequence[float]) -> Html:
    side = "left" if which == "x" else "bottom"
    spans = []
    for k, (value, place) in enumerate(zip(ticks, on.place(np.array(ticks)), strict=True)):
        # A narrow screen has no room for all numbers of the axis along it.
        odd = " odd" if which == "x" and k % 2 and len(ticks) > 4 else ""
        edge = " end" if which == "x" and place > 0.97 else ""
        spans.append(
            tag("span", _written(value), class_=f"tick {which}{odd}{edge}",
                style=f"{side}:{100 * place:.2f}%")
        )  # fmt: skip
    return tag("div", *spans, aria_hidden="true")


def _legend(lines: Sequence[Line]) -> Html | None:
    if len(lines) < 2:
        return None
    keys = []
    for line in lines:
        dash = DASHES[line.dash % len(DASHES)]
        stroke = tag("path", d="M0 6H26", class_="line", stroke_dasharray=dash or None)
        key = tag("svg", tag("g", stroke, class_=f"c{line.colour % COLOURS}"), class_="key",
                  viewBox="0 0 26 12", aria_hidden="true")  # fmt: skip
        keys.append(tag("li", key, short(line.name)))
    return tag("ul", *keys, class_="legend")


def _summary(title: str, lines: Sequence[Line], x_label: str) -> str:
    """The drawing in words."""
    parts = []
    for line in lines:
        finite = np.isfinite(line.y)
        if finite.any():
            x, y = line.x[finite], line.y[finite]
            parts.append(
                f"{short(line.name)} goes from {number(y[0])} at {x_label} {number(x[0])} to "
                f"{number(y[-1])} at {number(x[-1])}, least {number(y.min())}, largest "
                f"{number(y.max())}"
            )
    return f"{title}. {'; '.join(parts) or 'No values'}."


def _values(lines: Sequence[Line], x_label: str) -> Html:
    """What the script would tell of the last place."""
    ends = [line.x[-1] for line in lines if len(line.x)]
    values = [
        [" ", tag("span", short(ln.name)), " ", tag("b", number(ln.y[-1]))]
        for ln in lines
        if len(ln.y) and np.isfinite(ln.y[-1]) and ln.x[-1] == max(ends)
    ]
    return join([f"{x_label} {_written(max(ends))}" if ends else "No values", *values])


def _written(place: float) -> str:
    """A place on an axis: 0.9999 is another decay than 1."""
    return f"{place:.6g}" if 0.99 < place < 1 else number(place)


def _data(lines: Sequence[Line], across: Axis, x_label: str) -> str:
    """What the script reads: values by place, where they are shown, as JSON."""
    series = [
        {
            "name": short(line.name),
            "x": _numbers(line.x),
            "y": _numbers(line.y),
            **(
                {"low": _numbers(line.low), "high": _numbers(line.high)}
                if line.points and line.low is not None and line.high is not None
                else {}
            ),
        }
        for line in lines
    ]
    shown = {"x": x_label, "low": across.low, "high": across.high, "log": across.log}
    return json.dumps({**shown, "series": series}, separators=(",", ":"), allow_nan=False)


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in np.asarray(values, np.float64)]

"""HTML from Python: every text is escaped, unless it was built here."""

import html
from collections.abc import Iterable
from typing import Any

VOID = ("img", "input", "meta")
MAX_TEXT = 300  # characters of a value that a file gave


class Html(str):
    """Text that is HTML already: made by `tag`, and by nothing that was read from a file."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """One element: tag("p", "a < b", class_="note") is <p class="note">a &lt; b</p>.

    Args:
      name: of the element.
      *children: text (escaped), numbers, other elements, lists of these; None is nothing.
      **attributes: a trailing underscore is dropped and others become hyphens; True is an attribute
        without a value, None and False are none at all.
    """
    pairs = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            pairs.append(f" {key}")
        elif value is not None and value is not False:
            pairs.append(f' {key}="{html.escape(str(value))}"')
    opening = f"<{name}{''.join(pairs)}>"
    return Html(opening if name in VOID else f"{opening}{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Html:
    """Children one after another, each as in `tag`."""
    return Html("".join(_text(child) for child in children))


def short(value: Any, most: int = MAX_TEXT) -> str:
    """A value from a file as text of bounded length, without control characters."""
    text = value if isinstance(value, str) else repr(value)
    # Cut first: a file may hold a megabyte of it.
    cut = text[:most] + "…" if len(text) > most else text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut)


def table(
    head: Iterable[Any], rows: Iterable[Iterable[Any]], *, label: str, class_: str | None = None
) -> Html:
    """A table in a box that scrolls by itself; the first cell of a row is its heading.

    Cells are as children of `tag`; a cell that is a <td> already stays as it is.
    """
    body = [tag("tr", *(_cell(cell, first=k == 0) for k, cell in enumerate(row))) for row in rows]
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))),
            tag("tbody", *body),
            class_=class_,
        ),
        class_="scroll",
        role="region",
        aria_label=label,
        tabindex="0",
    )


def note(*children: Any) -> Html:
    """A paragraph in a quieter voice: what is missing, and why."""
    return tag("p", *children, class_="note")


def _cell(cell: Any, first: bool) -> Html:
    if isinstance(cell, Html) and cell.startswith("<td"):
        return cell
    return tag("th", cell, scope="row") if first else tag("td", cell)


def _text(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return html.escape(child)
    if isinstance(child, Iterable):
        return join(child)
    return html.escape(str(child))

"""A report as one file: sections under a heading, with its own style and script inside."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from ddpm_jax.reporting.report.html import Html, join, tag

STYLE = Path(__file__).with_name("page.css")
SCRIPT = Path(__file__).with_name("page.js")
LONG = 60  # characters of a title that is written smaller

Section = tuple[str, str, Html]  # its name, which links lead to; its title; what it says


def page(title: str, sections: Sequence[Section], *, kicker: str, below: Html | None = None) -> str:
    """A report as HTML that loads nothing.

    Args:
      title: what it is of.
      sections: one after another, with links to them beside.
      kicker: what kind of report it is, above the title.
      below: the title.
    """
    contents = [tag("li", tag("a", text, href=f"#{name}")) for name, text, _ in sections]
    body = tag(
        "div",
        tag("nav", tag("ol", *contents), aria_label="Contents"),
        tag("main", *(_section(*section) for section in sections), id="main"),
        class_="columns",
    )
    header = tag(
        "header",
        tag("p", kicker, class_="kicker"),
        tag("h1", title, class_="long" if len(title) > LONG else None),
        below,
    )
    footer = tag("footer", "Written by ddpm_jax's report. This file loads nothing else.")
    return _document(f"{title}: report", tag("div", header, body, footer, class_="sheet"))


def _section(name: str, title: str, content: Html) -> Html:
    heading = tag("h2", title, id=f"{name}-title")
    return tag("section", heading, content, id=name, aria_labelledby=f"{name}-title")


def _document(title: str, body: Html) -> str:
    style, script = (Html(path.read_text(encoding="utf-8")) for path in (STYLE, SCRIPT))
    # Were a text ever not escaped, the browser would still run no script but this one.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src "
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=f"{policy}'sha256-{digest}'"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content="ddpm_jax"),
        tag("title", title),
        tag("style", style),
    )
    skip = tag("a", "Skip to the content", href="#main", class_="skip")
    document = tag("html", head, tag("body", skip, body, tag("script", script)), lang="en")
    return join([Html("<!doctype html>\n"), document, "\n"])

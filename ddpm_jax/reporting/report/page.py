"""The page: what the sections say, one after another, with its own style and script inside."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ddpm_jax.reporting.report import gallery, measured, overview, tradeoff, training
from ddpm_jax.reporting.report.html import Html, join, short, tag
from ddpm_jax.reporting.report.runs import Run

STYLE = Path(__file__).with_name("page.css")
LONG = 60  # characters of a title that is written smaller
SCRIPT = Path(__file__).with_name("page.js")


def page(runs: Sequence[Run], defaults: Mapping[str, Any], written: datetime) -> str:
    """A report of one run or of several side by side, as HTML that loads nothing.

    Args:
      runs: at least one.
      defaults: {dotted name: value} of the default config.
      written: when, as the page tells it.
    """
    config = ("config", "Config", overview.config(runs, defaults))
    compared = len(runs) > 1  # where they differ is then what comes first
    sections: list[tuple[str, str, Html]] = [
        ("run", "What was run", overview.cards(runs)),
        *([config] if compared else []),
        ("samples", "Samples through training", gallery.samples(runs)),
        ("denoising", "From noise to image", gallery.film(runs)),
        ("training", "Training", training.figures(runs)),
        ("loss-by-t", "Loss by t", training.by_time(runs)),
        ("metrics", "Metrics", measured.metrics(runs)),
        ("nfe", "Quality against NFE", tradeoff.against_nfe(runs)),
        ("guidance", "What guidance trades", gallery.trade_offs(runs)),
        ("nearest", "Nearest training images", gallery.nearest(runs)),
        ("schedule", "Schedule", training.schedule(runs)),
        *([] if compared else [config]),
        ("attempts", "Attempts", overview.attempts(runs)),
    ]
    names = ", ".join(short(run.name) for run in runs)
    contents = [tag("li", tag("a", title, href=f"#{name}")) for name, title, _ in sections]
    body = tag(
        "div",
        tag("nav", tag("ol", *contents), aria_label="Contents"),
        tag("main", *(_section(*section) for section in sections), id="main"),
        class_="columns",
    )
    when = f"{written:%Y-%m-%d %H:%M} UTC"
    header = tag(
        "header",
        tag("p", "Training report" if len(runs) == 1 else f"{len(runs)} runs compared",
            class_="kicker"),
        tag("h1", names, class_="long" if len(names) > LONG else None),
        tag("p", "Written ", tag("time", when, datetime=written.isoformat("T", "minutes"))),
    )  # fmt: skip
    footer = tag("footer", "Written by ddpm_jax's report. This file loads nothing else.")
    sheet = tag("div", header, body, footer, class_="sheet")
    return _document(f"{names}: report", sheet)


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

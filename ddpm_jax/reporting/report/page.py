"""The page of runs: what the sections say, one after another."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ddpm_jax.reporting.report import (
    gallery,
    goodput,
    measured,
    overview,
    sheet,
    tradeoff,
    training,
)
from ddpm_jax.reporting.report.html import short, tag
from ddpm_jax.reporting.report.runs import Run
from ddpm_jax.reporting.report.sheet import Section


def page(runs: Sequence[Run], defaults: Mapping[str, Any], written: datetime) -> str:
    """A report of one run or of several side by side, as HTML that loads nothing.

    Args:
      runs: at least one.
      defaults: {dotted name: value} of the default config.
      written: when, as the page tells it.
    """
    config = ("config", "Config", overview.config(runs, defaults))
    beside = gallery.beside(runs)
    compared = len(runs) > 1  # where they differ is then what comes first
    sections: list[Section] = [
        ("run", "What was run", overview.cards(runs)),
        *([config] if compared else []),
        ("samples", "Samples through training", gallery.samples(runs)),
        ("denoising", "From noise to image", gallery.film(runs)),
        ("training", "Training", training.figures(runs)),
        ("loss-by-t", "Loss by t", training.by_time(runs)),
        ("metrics", "Metrics", measured.metrics(runs)),
        *([("beside", "What results show", beside)] if beside else []),
        ("nfe", "Quality against NFE", tradeoff.against_nfe(runs)),
        ("guidance", "What guidance trades", gallery.trade_offs(runs)),
        ("nearest", "Nearest training images", gallery.nearest(runs)),
        ("schedule", "Schedule", training.schedule(runs)),
        *([] if compared else [config]),
        ("attempts", "Attempts", overview.attempts(runs)),
        ("time", "Where the time went", goodput.section(runs)),
    ]
    names = ", ".join(short(run.name) for run in runs)
    when = f"{written:%Y-%m-%d %H:%M} UTC"
    return sheet.page(
        names,
        sections,
        kicker="Training report" if len(runs) == 1 else f"{len(runs)} runs compared",
        below=tag("p", "Written ", tag("time", when, datetime=written.isoformat("T", "minutes"))),
    )

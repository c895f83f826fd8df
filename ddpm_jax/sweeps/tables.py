"""A sweep's report as text: Markdown to read, CSV and JSON to go on with. No dates, no paths."""

import csv
import io
from typing import Any

from ddpm_jax.evaluation.intervals import LEVEL
from ddpm_jax.reporting.report.labels import NEAR_ONE, arrow
from ddpm_jax.sweeps import statements, statistics
from ddpm_jax.sweeps.aggregates import Best, Report, Table
from ddpm_jax.sweeps.results import OF_TIME
from ddpm_jax.sweeps.row_numbers import (
    BOOTSTRAP,
    COLUMNS,
    COMPARED,
    OF_SAMPLES,
    digits,
    flat,
    number,
    written,
)

FORMAT = 1
MOST_MISSING = 20  # names of cells that are not done

INTERVALS = (
    f"low and high: Student's {100 * LEVEL:g}% interval of the mean over training seeds; it takes "
    "2 of them."
)
BOOTSTRAPPED = (
    f"bootstrap: the {100 * LEVEL:g}% percentile interval of resampled seeds, from "
    f"{statistics.ENOUGH} seeds on."
)
NOISE = (
    "sample std: the standard deviation between sets of samples of one training, pooled over "
    "seeds. std is of a training's mean over its sets, and holds a share of it."
)
FEW = (
    f"n < {statistics.FEW}: fewer than {statistics.FEW} seeds say next to nothing of their spread; "
    "trust neither interval nor word."
)
WORDS = (
    "difference: to the baseline over the seeds that both have, with Student's interval. A word "
    f"other than inconclusive has p below {statistics.SIGNIFICANT:g} after Holm's correction for "
    "the settings compared in a table, so an interval without 0 may still be inconclusive."
)
DISTANCES = "Of figures that are best near 1 it is the difference of the distances to 1."
UNDEFINED = (
    "undefined: seeds in which the figure is no finite number. They are not in the mean, and such "
    "a setting is never the best."
)
SHARED = "Settings that differ only in how they are sampled share it, and are compared once."


def record(report: Report) -> dict[str, Any]:
    """All of it, for report.json."""
    results = report.results
    return {
        "format": FORMAT,
        "sweep": results.sweep.path.stem,
        "cells": len(results.sweep.cells),
        "done": len(results.cells),
        "missing": results.missing,
        "varied": results.varied,
        "baseline": report.baseline,
        "level": LEVEL,
        "notes": list(results.notes),
        **({"statements": found} if (found := statements.record(report)) else {}),
        "metrics": [_record_of_table(table) for table in report.tables],
    }


def csv_text(report: Report) -> str:
    """A line for each figure of each setting, for report.csv; numbers in full."""
    stream = io.StringIO()
    fields = report.results.varied
    head = [
        "metric",
        *COLUMNS,
        *OF_SAMPLES,
        *BOOTSTRAP,
        *COMPARED,
        "flags",
        *fields,
    ]
    writer = csv.DictWriter(stream, head, restval="", lineterminator="\n")
    writer.writeheader()
    for table in report.tables:
        for row in table.rows:
            values = {name: row.values.get(name) for name in fields}
            entry = {n: v for n, v in flat(row).items() if n in head and v is not None}
            writer.writerow(
                {"metric": table.figure, **entry, "flags": "; ".join(row.flags), **values}
            )
    return stream.getvalue()


def markdown(report: Report) -> str:
    """A table for each figure, for report.md."""
    results = report.results
    parts = [f"# {results.sweep.path.stem}", report.counts]
    parts += [*missing(report), *results.notes, *(f"- {line}" for line in legend(report))]
    parts += statements.markdown(report)
    for table in report.tables:
        title = f"## {table.figure}{arrow_of(report, table)}"
        said = [best_text(table, table.best)] if table.best else []
        said += [SHARED] if report.results.of_training(table.figure) and _sampled(report) else []
        parts += [title, table.label.label, _markdown_table(table), *said]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def legend(report: Report) -> list[str]:
    """What must be known to read the tables, a sentence each."""
    rows = [row for table in report.tables for row in table.rows]
    compared = any(row.difference for row in rows)
    near = any(table.label.better == NEAR_ONE for table in report.tables)
    lines = [INTERVALS]
    lines += [BOOTSTRAPPED] if any(r.summary and r.summary.bootstrap for r in rows) else []
    lines += [NOISE] if any(row.sample_std is not None for row in rows) else []
    lines += [f"Baseline: {report.baseline}."] if report.baseline else []
    lines += [f"{WORDS} {DISTANCES}" if near else WORDS] if compared else []
    lines += [FEW] if any(len(row.seeds) < statistics.FEW for row in rows) else []
    lines += [UNDEFINED] if any(row.undefined for row in rows) else []
    return lines


def missing(report: Report) -> list[str]:
    """Which cells are not done, in a sentence; nothing where all are."""
    names = report.results.missing
    if not names:
        return []
    more = f" and {len(names) - MOST_MISSING:,} more" if len(names) > MOST_MISSING else ""
    return [f"Not done, and left out: {', '.join(names[:MOST_MISSING])}{more}."]


def arrow_of(report: Report, table: Table) -> str:
    """An arrow to where the figure is better."""
    return arrow(table.figure.split(OF_TIME)[0], report.results.labels)


def best_text(table: Table, best: Best) -> str:
    """Which setting is best, of how many, and how much of that is luck."""
    others = len(best.ties)
    equal = f" ({others:,} more have the same mean)" if others else ""
    text = f"Best of {best.num:,} settings compared: {best.setting}{equal}."
    luck = best.optimism
    if luck is None:
        return (
            f"{text} For being the best of several it looks better than it is; by how much takes "
            f"{statistics.ENOUGH} seeds that all settings have."
        )
    what = "distance to 1" if table.label.better == NEAR_ONE else "mean"
    size = abs(luck.value) or abs(luck.chosen)
    chosen, held_out, value = (
        number(v, digits([size])) for v in (luck.chosen, luck.held_out, luck.value)
    )
    return (
        f"{text} Chosen by half of {luck.n} seeds, the best setting's {what} is {chosen} on these "
        f"and {held_out} on the others: {value} of it is the luck of having been chosen. All seeds "
        "choose with less luck, about 0.7 times as much."
    )


def compared(table: Table) -> bool:
    """Whether it has differences to a baseline."""
    return any(row.difference for row in table.rows)


def of_samples(table: Table) -> bool:
    """Whether any setting was measured on several sets of samples."""
    return any(row.sample_std is not None for row in table.rows)


def bootstrapped(table: Table) -> bool:
    """Whether it has intervals by bootstrap."""
    return any(row.summary and row.summary.bootstrap for row in table.rows)


def _sampled(report: Report) -> bool:
    return any(one.cell.sampling for one in report.results.cells)


def _markdown_table(table: Table) -> str:
    names = [*COLUMNS]
    names += OF_SAMPLES if of_samples(table) else ()
    names += BOOTSTRAP if bootstrapped(table) else ()
    names += COMPARED[1:] if compared(table) else ()
    flagged = any(row.flags for row in table.rows)
    lines = [[name.replace("_", " ") for name in names] + ["flags"] * flagged]
    lines.append(["---"] * len(lines[0]))
    for row in table.rows:
        texts = {"setting": row.setting.replace("|", "\\|"), **written(row)}
        lines.append([texts[name] for name in names] + ["; ".join(row.flags)] * flagged)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _record_of_table(table: Table) -> dict[str, Any]:
    best = table.best
    return {
        "metric": table.figure,
        "label": table.label.label,
        "better": table.label.better or None,
        "settings": [
            {
                **flat(row),
                "values": dict(row.values),
                "seeds": {str(seed): value for seed, value in row.seeds.items()},
                "undefined": row.undefined,
                "flags": row.flags,
            }
            for row in table.rows
        ],
        "best": best
        and {
            "setting": best.setting,
            "of": best.num,
            "ties": list(best.ties),
            "optimism": best.optimism and best.optimism._asdict(),
        },
    }

"""What the seeds of a sweep say of its settings, as text, tables and one HTML file."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.sweeps import aggregates, page, results, tables
from ddpm_jax.sweeps.aggregates import Report
from ddpm_jax.sweeps.sweep_file import Sweep

# What is written, each whole or not at all.
FILES: dict[str, Callable[[Report], str]] = {
    "report.md": tables.markdown,
    "report.csv": tables.csv_text,
    "report.json": lambda report: json.dumps(tables.record(report), indent=2) + "\n",
    "report.html": page.page,
}


def write(
    sweep: Sweep, workdir: Path, baseline: str | None = None, allow: Sequence[str] = ()
) -> str:
    """Write D/report.{md,csv,json,html}; returns the first of them, to be printed.

    Args:
      sweep: the sweep.
      workdir: its folder.
      baseline: as of `aggregates.aggregate`.
      allow: as of `results.read`.

    Raises:
      UserError: as these, or for a folder that cannot be written to.
    """
    report = aggregates.aggregate(results.read(sweep, workdir, allow), baseline)
    texts = {name: text(report) for name, text in FILES.items()}
    for name, text in texts.items():
        try:
            with files.whole(workdir / name) as partial:
                partial.write_text(text, encoding="utf-8")
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write {workdir / name} ({reason})") from error
    return texts["report.md"]

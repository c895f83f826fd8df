"""A report of one run or several, as a single HTML file."""

import datetime
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.build import paths
from ddpm_jax.build.kinds import KINDS
from ddpm_jax.commands.report import drawing
from ddpm_jax.config import config_files, defaults
from ddpm_jax.errors import UserError
from ddpm_jax.measures import manifest, metric_table
from ddpm_jax.reporting.report import evaluations, folders, page, runs
from ddpm_jax.runtime import files

MAX_RUNS = 8  # colours that can be told apart
MAX_TABLE = 10**6  # steps of a discrete schedule; a file may ask for any number


def report(
    workdirs: Sequence[str],
    out: str | None = None,
    *,
    draw: bool = True,
    data_dir: str | None = None,
    code: Sequence[str] = (),
) -> Path:
    """Write a report of these runs; returns the file.

    What is missing or cannot be read in a workdir is said on the page.

    Args:
      workdirs: of the runs, at most `MAX_RUNS`.
      out: the file F.html; None for report.html in the first workdir.
      draw: draw with the newest checkpoint's network too: the way from noise to image, and the loss
        by t. Without, nothing is computed.
      data_dir: where the runs' data lie now; None for where they lay.
      code: modules that hold the runs' own parts, "package.module".

    Raises:
      UserError: for a workdir that holds no run or is there twice, or an `out` that cannot be
        written; nothing is written then.
    """
    places = _workdirs(workdirs)
    read = [_config(folder) for folder in places]
    target = _target(out, places[0])
    names = runs.names([Path(os.path.abspath(folder)) for folder in places])
    entries = [_run(*one, draw, data_dir, code) for one in zip(places, names, read, strict=True)]
    usual: dict[str, Any] = {}
    for config in read:  # a field that none of their kinds has is no difference
        usual = config_files.fields(defaults.get_config(config.kind)) | usual
    text = page(entries, usual, datetime.datetime.now(datetime.UTC))
    try:
        with files.whole(target) as partial:
            # A name of a file may hold bytes that are no text.
            partial.write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"--out={target}: cannot write there ({error.strerror})") from error
    return target


def _run(
    folder: Path,
    name: str,
    config: ConfigDict,
    draw: bool,
    data_dir: str | None,
    code: Sequence[str],
) -> runs.Run:
    drawn: runs.Drawn | str = "Left out, as --nodraw asks for."
    if draw:
        print(f"{name}: drawing with its checkpoint; --nodraw leaves it out", file=sys.stderr)
        drawn = drawing.drawn(folder, data_dir, code)
    labels = metric_table.labels()
    measured = evaluations.read(folder / "eval", labels)
    kind = KINDS[config.kind]
    return runs.Run(
        name=name,
        workdir=folder,
        config=config_files.fields(config),
        attempts=_attempts(folder),
        curve=_schedule_curve(config),
        drawn=drawn,
        metrics=runs.metrics(folder),
        samples=runs.samples(folder),
        nearest=folders.listed(folder / "eval", "_nearest.png"),
        evaluations=measured,
        labels=labels,
        trade_offs=runs.trade_offs(folder / "eval", measured),
        beside=runs.beside(folder / "eval", measured, metric_table.pictures()),
        no_images=f"This {kind.noun} draws no images." if kind.why_no_images(config) else "",
    )


def _attempts(folder: Path) -> list[manifest.Entry] | str:
    path = folder / manifest.FILE
    if not path.exists():
        return "There is no manifest.json, so the attempts at it are not known."
    try:
        return manifest.read(path)
    except UserError as error:
        return f"The attempts are not known: {error}."


def _schedule_curve(config: ConfigDict) -> runs.ScheduleCurve | str:
    """The schedule that the config describes, as long as it is none that is learned."""
    if not drawing.has_schedule(config):
        return drawing.no_schedule(KINDS[config.kind])
    try:
        steps = config.diffusion.num_steps
        if not isinstance(steps, int) or steps > MAX_TABLE:
            return f"The schedule is not shown: diffusion.num_steps is {steps!r:.50}."
        schedule = paths.schedule(config)
    except (UserError, ValueError, TypeError, AttributeError, KeyError) as error:
        return f"The schedule that the config describes cannot be built: {error}."
    if schedule is None:
        return "The schedule is learned: it takes a checkpoint to show it."
    return drawing.schedule_curve(schedule)


def _workdirs(workdirs: Sequence[str]) -> list[Path]:
    if not workdirs:
        raise UserError("--workdir is missing: name the run to report on, or several of them")
    if len(workdirs) > MAX_RUNS:
        raise UserError(
            f"--workdir: {len(workdirs)} runs are too many to tell apart; name {MAX_RUNS}"
        )
    seen: dict[str, str] = {}
    for one in workdirs:
        if not Path(one).is_dir():
            raise UserError(f"--workdir={one}: there is no such folder; name a run's")
        real = os.path.realpath(one)
        if real in seen:
            raise UserError(f"--workdir={one} is named twice: it is the same run as {seen[real]}")
        seen[real] = one
    return [Path(one) for one in workdirs]


def _config(folder: Path) -> ConfigDict:
    config = config_files.read(folder)
    if config is None:
        raise UserError(
            f"--workdir={folder}: it has no config.json, so it is no run; name a folder that "
            "a run was trained in"
        )
    return config


def _target(out: str | None, first: Path) -> Path:
    """The file to write; tried before anything is computed."""
    target = Path(out) if out is not None else first / "report.html"
    if target.suffix not in (".html", ".htm") or target.is_dir():
        raise UserError(f"--out={out}: need a file F.html")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise UserError(f"--out={target}: cannot write there ({error.strerror})") from error
    return target

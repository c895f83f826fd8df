"""A sweep's folder: which sweep it is of, its cells, what differs between them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.sweeps import cell_flags, workdirs
from ddpm_jax.sweeps.cells import FOLDER
from ddpm_jax.sweeps.sweep_file import Sweep

LIMIT = 2**26  # bytes of plan.json


def plan(sweep: Sweep) -> dict[str, Any]:
    """What plan.json holds of a sweep: its cells, the fields that differ, the trainings."""
    differing = list(dict.fromkeys(name for cell in sweep.cells for name in cell.values))
    return {
        "sweep": sweep.path.stem,
        "base": sweep.base_digest,
        "differing": differing,
        "trainings": len(sweep.trainings()),
        "evaluate": {name: _plain(value) for name, value in sweep.evaluate.items()},
        "cells": [
            {
                "name": cell.name,
                "setting": cell.setting,
                "seed": cell.seed,
                "training": cell.training,
                **({"needs": [*cell.needs.values()]} if cell.needs else {}),
                "values": {name: _plain(value) for name, value in cell.values.items()},
            }
            for cell in sweep.cells
        ],
    }


def check_workdir(sweep: Sweep, workdir: str | Path) -> dict[str, Any]:
    """What plan.json says of a folder already; {} for a new one.

    Raises:
      UserError: for a folder of another sweep, or one that holds something else.
    """
    path = Path(workdir) / workdirs.PLAN
    if not path.exists():
        if (Path(workdir) / "config.json").exists():
            raise UserError(f"--workdir={workdir} is a run, not a sweep: name another folder")
        return {}
    before = read(path)
    if before.get("sweep") != sweep.path.stem or before.get("base") != sweep.base_digest:
        name = "" if before.get("sweep") == sweep.path.stem else f" ({before.get('sweep')})"
        what = name or " (its base config was another)"
        raise UserError(
            f"--workdir={workdir} is of another sweep{what}: name another folder, or change the "
            "cells and leave the base"
        )
    return before


def write(sweep: Sweep, workdir: str | Path, **more: Any) -> dict[str, Any]:
    """Write D/plan.json and the files of flags; what else stood in plan.json stays.

    Args:
      sweep: the sweep.
      workdir: of the sweep.
      more: other entries, such as a forecast.

    Raises:
      UserError: as `check_workdir`, or where nothing can be written.
    """
    workdir = Path(workdir).absolute()
    content = check_workdir(sweep, workdir) | plan(sweep) | more
    try:
        for name, cell in sweep.trainings().items():
            folder = workdirs.folder(workdir, name)
            folder.mkdir(parents=True, exist_ok=True)
            _write_lines(folder / workdirs.FLAGS, cell_flags.flag_lines(workdir, sweep, cell))
            if cell.needs:
                _write_lines(folder / workdirs.NEEDS, [*cell.needs.values()])
        measures = {
            cell_flags.measure_flags(workdir, cell): cell for cell in sweep.cells if cell.evaluate
        }
        for path, cell in measures.items():
            _write_lines(path, cell_flags.measure_lines(workdir, sweep, cell))
        for name in sweep.trainings():  # what an earlier sweep file measured
            for path in workdirs.folder(workdir, name).glob("measure-*.txt"):
                if path not in measures:
                    path.unlink()
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot write there ({error.strerror})") from error
    files.must_write_json(workdir / workdirs.PLAN, content)
    return content


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def read(path: Path) -> dict[str, Any]:
    """What a plan.json holds. Raises UserError for a file that is none."""
    try:
        content = files.read_json(path, LIMIT)
        if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
            raise ValueError("it has no list of cells")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a plan ({error}); move it away to begin anew") from error
    return content


def table(sweep: Sweep, workdir: str | Path) -> str:
    """The cells as lines, and how many there are of what."""
    content = plan(sweep)
    trainings = content["trainings"]
    seeds = {cell.seed for cell in sweep.cells}
    settings = dict.fromkeys(cell.setting for cell in sweep.cells)
    lines = [cell.name for cell in sweep.cells]
    lines.append("")
    lines.append(
        f"cells: {len(lines) - 1:,}; settings: {len(settings):,}; seeds: {len(seeds):,}; "
        f"trainings: {trainings:,}; differing: {', '.join(content['differing']) or 'nothing'}"
    )
    lines += dict.fromkeys(
        f"measured{f' of {cell.config}' if cell.config else ''}: "
        f"{', '.join(cell.evaluate['metrics'])}"
        for cell in sweep.cells
        if cell.evaluate
    )
    if gone := left_over(sweep, workdir):
        lines.append(f"in {workdir} and no longer in the sweep: {', '.join(gone)}")
    return "\n".join(lines)


def left_over(sweep: Sweep, workdir: str | Path) -> list[str]:
    """Trainings in the folder that are no longer in the sweep."""
    try:
        there = sorted(path.name for path in (Path(workdir) / FOLDER).iterdir() if path.is_dir())
    except OSError:
        return []
    known = sweep.trainings()
    return [name for name in there if name not in known]


def _plain(value: Any) -> Any:
    """As JSON holds it."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value

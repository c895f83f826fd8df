"""The flags of a cell's commands, as files that absl reads with --flagfile."""

import json
from pathlib import Path
from typing import Any

from ddpm_jax.config import config_files, own_code
from ddpm_jax.sweeps import workdirs
from ddpm_jax.sweeps.cells import Cell
from ddpm_jax.sweeps.overrides import Overrides
from ddpm_jax.sweeps.sweep_file import Sweep


def flag_lines(workdir: Path, sweep: Sweep, cell: Cell) -> list[str]:
    """The lines of a cell's flags.txt: absl reads them with --flagfile."""
    config = f"{sweep.path}:{cell.config}" if cell.config else f"{sweep.path}"
    values = overrides(workdir, cell)
    return [
        f"--config={config}",
        *(f"--config.{name}={flag_value(value)}" for name, value in values.items()),
    ]


def overrides(workdir: Path, cell: Cell) -> Overrides:
    """The overrides of a cell's training, with the workdirs of others in the sweep's folder."""
    others = {field: str(workdirs.folder(workdir, name)) for field, name in cell.needs.items()}
    return {**cell.overrides, **others}


def flag_value(value: Any) -> str:
    """A value as a --config flag spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def measure_flags(workdir: Path, cell: Cell) -> Path:
    """The file of the evaluate command's flags for a cell."""
    name = workdirs.result(workdir, cell).stem
    return workdirs.folder(workdir, cell.training) / f"measure-{name.removeprefix('sweep-')}.txt"


def measure_lines(workdir: Path, sweep: Sweep, cell: Cell) -> list[str]:
    """The lines of that file: samples are drawn as the base config says but for the cell's own."""
    lines = [f"--workdir={workdirs.folder(workdir, cell.training)}"]
    lines.append(f"--name={workdirs.result(workdir, cell).stem}")
    lines += [f"--{name}={_listed(value)}" for name, value in cell.evaluate.items()]
    scale, base = "sample.guidance_scale", sweep.configs[cell.config]
    if "guidance_scale" not in cell.evaluate and "sample" in base:
        # Without it the unguided samples would be measured too, of a run that draws guided ones;
        # metrics of the model alone refuse it.
        own = cell.overrides.get(scale, base.sample.guidance_scale)
        asked = cell.sampling.get(scale, own)
        lines += [f"--guidance_scale={asked}"] * ((own, asked) != (1, 1))
    if modules := _own_modules(sweep, cell):
        lines.append(f"--code={','.join(modules)}")
    options = [
        f"{name.rpartition('.')[2]}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in cell.sampling.items()
        if name != scale
    ]
    return [*lines, *([f"--options={','.join(options)}"] if options else [])]


def _own_modules(sweep: Sweep, cell: Cell) -> list[str]:
    """The modules of the user's own parts, which the sweep file names: a workdir alone may not."""
    whole = config_files.fields(sweep.configs[cell.config]) | cell.overrides | cell.sampling
    names = [str(whole.get(field, "")) for field in config_files.CHOICES]
    return sorted({name.partition(":")[0] for name in names if own_code.is_own(name)})


def _listed(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return flag_value(value)

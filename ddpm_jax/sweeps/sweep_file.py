"""A sweep file, read and checked: its base config, its cells, and what is measured of them."""

import contextlib
import dataclasses
import os
import re
import runpy
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError, suggest
from ddpm_jax.sweeps.cells import CONFIG, Cell, Cells, compared, setting_named
from ddpm_jax.sweeps.overrides import Overrides, grid

# What `evaluate` of a sweep file may name, beside `samplers`: flags of the evaluate command.
EVALUATE = (
    "metrics",
    "num_samples",
    "repeats",
    "guidance_scale",
    "extractor",
    "inception_weights",
    "resize",
    "reference",
    "num_reference",
    "kid_subsets",
    "num_terms",
    "seed",
    "step",
    "ema",
    "raw_params",
)
SAMPLERS = "samplers"
FLAGS = (*EVALUATE, SAMPLERS)
# What `k8s` may name.
K8S = ("image", "volume_claim", "mount_path", "resources", "namespace", "python")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
      path: absolute, of the file.
      configs: what its `get_config` returns, by the names that cells begin with; "" for the base.
      base_digest: of the base, for telling sweeps apart.
      cells: in the file's order.
      evaluate: what is measured of each cell, as the file has it: flags of the evaluate command,
        or these by the name of a config; {} for nothing.
      baseline: the setting that others are compared with; None for none.
      statements: texts with the names of the figures that speak of each, for the report.
      slurm: options of sbatch.
      k8s: options of a Kubernetes Job.
    """

    path: Path
    configs: Mapping[str, ConfigDict]
    base_digest: str
    cells: tuple[Cell, ...]
    evaluate: Mapping[str, Any]
    baseline: str | None
    statements: Mapping[str, Sequence[str]]
    slurm: Mapping[str, Any]
    k8s: Mapping[str, Any]

    @property
    def base(self) -> ConfigDict:
        """The config of cells that name none."""
        return self.configs[""]

    @property
    def measured(self) -> bool:
        """Whether anything is measured of any cell."""
        return any(cell.evaluate for cell in self.cells)

    def trainings(self) -> dict[str, Cell]:
        """A cell of each training, by the training's name; in order."""
        return {cell.training: cell for cell in self.cells}


def read(path: str | Path) -> Sweep:
    """Read and check a sweep file: it is run, as a config file is.

    Raises:
      UserError: for a file that is none or raises, for no cells or two alike, and for a field that
        is unknown, of the wrong type or out of range, naming the cell.
    """
    names = _run(path)
    with _raising(path, "sweep()"):
        cells = [dict(one) for one in names["sweep"]()]
    configs = _configs(path, names["get_config"], cells)
    evaluate, cells = _measured(path, names, cells)
    if not cells:
        raise UserError(f"--sweep={path}: the sweep is empty: sweep() returned no cells")
    maker = Cells(configs, cells)
    made = tuple(
        dataclasses.replace(cell, evaluate=_flags_of(evaluate, cell.config))
        for cell in map(maker.cell, cells)
    )
    _check_different(path, made)
    _check_needs(path, made)
    baseline = names.get("baseline")
    if baseline is not None:
        baseline = _named(path, baseline, configs[""], made)
    return Sweep(
        path=Path(path).absolute(),
        configs=configs,
        base_digest=config_files.sha256(compared(configs[""])),
        cells=made,
        evaluate=evaluate,
        baseline=baseline,
        statements=_statements(path, names),
        slurm=_group(path, names, "slurm", None),
        k8s=_group(path, names, "k8s", K8S),
    )


def _run(path: str | Path) -> dict[str, Any]:
    if not (str(path).endswith(".py") and os.path.isfile(path)):
        raise UserError(f"--sweep={path}: is no Python file; see configs/sweeps/")
    with _raising(path):
        before = list(sys.path)
        try:
            names = runpy.run_path(str(path))
        finally:
            sys.path[:] = before
    for name in ("get_config", "sweep"):
        if not callable(names.get(name)):
            raise UserError(
                f"--sweep={path}: has no function {name}(); a sweep file has get_config(), which "
                f"returns the base config, and sweep(), which returns overrides"
            )
    return names


@contextlib.contextmanager
def _raising(path: str | Path, where: str = "") -> Iterator[None]:
    """What the user's code raises, as one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        place = f" in {where}" if where else ""
        raise UserError(f"--sweep={path}: cannot load it{place} ({reason})") from error


def _group(
    path: str | Path, names: Mapping[str, Any], name: str, known: tuple[str, ...] | None
) -> dict[str, Any]:
    """A dict of a sweep file, with names that are known."""
    group = names.get(name) or {}
    if not isinstance(group, Mapping):
        raise UserError(f"--sweep={path}: {name} must be a dict, got {group!r:.80}")
    for key in group:
        if known is not None and key not in known:
            raise UserError(f"--sweep={path}: {name} has no {key!r}{suggest(str(key), [*known])}")
    return dict(group)


def _configs(
    path: str | Path, get_config: Any, cells: Iterable[Overrides]
) -> dict[str, ConfigDict]:
    """The configs that cells begin with, by name; "" for the base."""
    configs: dict[str, ConfigDict] = {}
    for name in ["", *(one.get(CONFIG, "") for one in cells)]:
        if name in [*configs]:
            continue
        if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]*", name, re.ASCII):
            raise UserError(
                f"--sweep={path}: config={name!r}: need the name of a config that get_config(name) "
                "returns, of letters, digits, '_', '.', '+' and '-'"
            )
        with _raising(path, f"get_config({name!r})" if name else "get_config()"):
            made = get_config(name) if name else get_config()
        if not isinstance(made, ConfigDict):
            asked = repr(name) if name else ""
            raise UserError(
                f"--sweep={path}: get_config({asked}) must return a config, got {made!r:.80}"
            )
        configs[name] = made
    return configs


def _measured(
    path: str | Path, names: Mapping[str, Any], cells: list[Overrides]
) -> tuple[dict[str, Any], list[Overrides]]:
    """What is measured, without its samplers; and the cells, one for each sampler."""
    evaluate = names.get("evaluate") or {}
    if by_config := _is_by_config(evaluate):
        known = tuple(dict.fromkeys(one[CONFIG] for one in cells if CONFIG in one))
        _group(path, names, "evaluate", known)
        groups = {n: _group(path, {n: one}, n, FLAGS) for n, one in evaluate.items()}
    else:
        groups = {"": _group(path, names, "evaluate", FLAGS)}
    for name, group in groups.items():
        if group and not group.get("metrics"):
            where = f" of {name}" if name else ""
            raise UserError(f"--sweep={path}: evaluate{where} must name metrics=(...)")
    samplers = {name: group.pop(SAMPLERS, ()) for name, group in groups.items()}
    made = []
    with _raising(path, "evaluate"):
        for one in cells:
            own = samplers.get(one.get(CONFIG, "") if by_config else "", ())
            changes = [{f"sample.{n}": v for n, v in fields.items()} for fields in own]
            made += grid([one], changes) if changes else [one]
    return groups if by_config else groups[""], made


def _is_by_config(evaluate: Any) -> bool:
    """Whether it is a dict by the names of configs: of flags none is a dict."""
    if not isinstance(evaluate, Mapping):
        return False
    return bool(evaluate) and all(isinstance(one, Mapping) for one in evaluate.values())


def _flags_of(evaluate: Mapping[str, Any], config: str) -> Mapping[str, Any]:
    """What is measured of the cells of a config."""
    flags: Mapping[str, Any] = evaluate.get(config, {}) if _is_by_config(evaluate) else evaluate
    return flags


def _statements(path: str | Path, names: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Texts with names of figures."""
    made = {}
    for text, figures in _group(path, names, "statements", None).items():
        one = (figures,) if isinstance(figures, str) else figures
        if (
            not isinstance(one, list | tuple)
            or not one
            or not all(isinstance(name, str) for name in one)
        ):
            raise UserError(
                f"--sweep={path}: statements[{text!r:.60}] must be names of figures, ('fid', ...)"
            )
        made[str(text)] = tuple(one)
    return made


def _named(path: str | Path, asked: Any, base: ConfigDict, cells: tuple[Cell, ...]) -> str:
    found = setting_named(asked, cells, base)
    if found is None:
        settings = " / ".join(dict.fromkeys(cell.setting for cell in cells))
        raise UserError(
            f"--sweep={path}: baseline={asked!r} is no cell, or several; settings: {settings:.300}"
        )
    return found


def _check_different(path: str | Path, cells: tuple[Cell, ...]) -> None:
    trainings: dict[str, Cell] = {}
    names: dict[str, Cell] = {}
    for cell in cells:
        if cell.name in names:
            raise UserError(f"--sweep={path}: two cells are the same: {cell.name}")
        names[cell.name] = cell
        other = trainings.setdefault(cell.training, cell)
        if other is not cell and not cell.evaluate:
            raise UserError(
                f"--sweep={path}: {other.name} and {cell.name} differ only in how they are "
                "sampled, which nothing measures: name evaluate = dict(metrics=(...))"
            )


def _check_needs(path: str | Path, cells: tuple[Cell, ...]) -> None:
    """Every cell whose workdir another one names is in the sweep."""
    trainings = {cell.training for cell in cells}
    for cell in cells:
        for field, needed in cell.needs.items():
            if needed not in trainings:
                raise UserError(
                    f"--sweep={path}: {cell.name}: {field} is the workdir of {needed}, which is no "
                    "cell: let sweep() return it too"
                )

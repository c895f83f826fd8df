"""A sweep file, read and checked: its base config, its cells, and what is measured of them."""

import contextlib
import dataclasses
import os
import runpy
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError, suggest
from ddpm_jax.sweeps.cells import Cell, Cells, compared, setting_named
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
# What `k8s` may name.
K8S = ("image", "volume_claim", "mount_path", "resources", "namespace", "python")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
      path: absolute, of the file.
      base: the config that its `get_config` returns.
      base_digest: of `base`, for telling sweeps apart.
      cells: in the file's order.
      evaluate: what is measured of each cell: flags of the evaluate command; {} for nothing.
      baseline: the setting that others are compared with; None for none.
      slurm: options of sbatch.
      k8s: options of a Kubernetes Job.
    """

    path: Path
    base: ConfigDict
    base_digest: str
    cells: tuple[Cell, ...]
    evaluate: Mapping[str, Any]
    baseline: str | None
    slurm: Mapping[str, Any]
    k8s: Mapping[str, Any]

    def trainings(self) -> dict[str, Overrides]:
        """The overrides of each training, by its name; in order."""
        return {cell.training: cell.overrides for cell in self.cells}


def read(path: str | Path) -> Sweep:
    """Read and check a sweep file: it is run, as a config file is.

    Raises:
      UserError: for a file that is none or raises, for no cells or two alike, and for a field that
        is unknown, of the wrong type or out of range, naming the cell.
    """
    names = _run(path)
    with _raising(path, "get_config"):
        base = names["get_config"]()
    with _raising(path, "sweep"):
        cells = [dict(one) for one in names["sweep"]()]
    if not isinstance(base, ConfigDict):
        raise UserError(f"--sweep={path}: get_config() must return a config, got {base!r:.80}")
    evaluate = _group(path, names, "evaluate", (*EVALUATE, SAMPLERS))
    if evaluate and not evaluate.get("metrics"):
        raise UserError(f"--sweep={path}: evaluate must name metrics=(...)")
    if samplers := evaluate.pop(SAMPLERS, ()):
        with _raising(path, "evaluate"):
            cells = grid(cells, [{f"sample.{n}": v for n, v in one.items()} for one in samplers])
    if not cells:
        raise UserError(f"--sweep={path}: the sweep is empty: sweep() returned no cells")
    maker = Cells(base, cells)
    made = tuple(maker.cell(overrides) for overrides in cells)
    _check_different(path, made, bool(evaluate))
    baseline = names.get("baseline")
    if baseline is not None:
        baseline = _named(path, baseline, base, made)
    return Sweep(
        path=Path(path).absolute(),
        base=base,
        base_digest=config_files.sha256(compared(base)),
        cells=made,
        evaluate=evaluate,
        baseline=baseline,
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
        place = f" in {where}()" if where else ""
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


def _named(path: str | Path, asked: Any, base: ConfigDict, cells: tuple[Cell, ...]) -> str:
    found = setting_named(asked, cells, base)
    if found is None:
        settings = " / ".join(dict.fromkeys(cell.setting for cell in cells))
        raise UserError(
            f"--sweep={path}: baseline={asked!r} is no cell, or several; settings: {settings:.300}"
        )
    return found


def _check_different(path: str | Path, cells: tuple[Cell, ...], measured: bool) -> None:
    trainings: dict[str, Cell] = {}
    names: dict[str, Cell] = {}
    for cell in cells:
        if cell.name in names:
            raise UserError(f"--sweep={path}: two cells are the same: {cell.name}")
        names[cell.name] = cell
        other = trainings.setdefault(cell.training, cell)
        if other is not cell and not measured:
            raise UserError(
                f"--sweep={path}: {other.name} and {cell.name} differ only in how they are "
                "sampled, which nothing measures: name evaluate = dict(metrics=(...))"
            )

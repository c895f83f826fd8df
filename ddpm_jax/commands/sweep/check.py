"""Every setting of a sweep is built once, and its metrics are looked at: nothing is trained."""

from pathlib import Path

from ml_collections import ConfigDict

from ddpm_jax import experiment
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.measures import metric_table, training_evaluation
from ddpm_jax.reporting import writers
from ddpm_jax.sweeps import cell_flags
from ddpm_jax.sweeps.cells import Cell
from ddpm_jax.sweeps.overrides import Overrides
from ddpm_jax.sweeps.sweep_file import Sweep

NOTHING: Overrides = {}


def check(sweep: Sweep, workdir: Path) -> int:
    """Build one cell of each setting; returns how many there are.

    Args:
      sweep: the sweep.
      workdir: its folder, in which nothing needs to be.

    Raises:
      UserError: naming the cell and what it cannot be, or the metric that it does not have.
    """
    settings = {cell.setting: cell for cell in reversed(sweep.cells)}  # the first of each
    for cell in settings.values():
        config = config_of(sweep, cell, workdir, cell.sampling)
        metrics = metric_table.named(cell.evaluate["metrics"]) if cell.evaluate else []
        try:
            config = config_files.resolve(config)
            built = experiment.build(config, own=experiment.imported_parts(config))
            training_evaluation.check(config)
            writers.check(config.train.writers)
            for metric in metrics:
                metric_table.check_kind(metric, built.kind)
        except UserError as error:
            raise UserError(f"cell {cell.name}: {error}") from error
    return len(settings)


def config_of(sweep: Sweep, cell: Cell, workdir: Path, sampling: Overrides = NOTHING) -> ConfigDict:
    """The config of a cell's training, which the sweep file's reading has checked.

    Args:
      sweep: the sweep.
      cell: of it.
      workdir: the sweep's folder.
      sampling: further changes.
    """
    config = ConfigDict(sweep.configs[cell.config].to_dict())
    for field, value in (cell_flags.overrides(workdir, cell) | sampling).items():
        *groups, key = field.split(".")
        place = config
        for group in groups:
            place = place[group]
        with place.unlocked():
            place[key] = tuple(value) if isinstance(value, list) else value
    return config

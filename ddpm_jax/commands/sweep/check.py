"""Every setting of a sweep is built once, and its metrics are looked at: nothing is trained."""

from ml_collections import ConfigDict

from ddpm_jax import experiment
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.measures import metric_table, training_evaluation
from ddpm_jax.reporting import writers
from ddpm_jax.sweeps.overrides import Overrides
from ddpm_jax.sweeps.sweep_file import Sweep


def check(sweep: Sweep) -> int:
    """Build one cell of each setting; returns how many there are.

    Raises:
      UserError: naming the cell and what it cannot be, or the metric that it does not have.
    """
    metrics = metric_table.named(sweep.evaluate["metrics"]) if sweep.evaluate else []
    settings = {cell.setting: cell for cell in reversed(sweep.cells)}  # the first of each
    for cell in settings.values():
        config = config_of(sweep, {**cell.overrides, **cell.sampling})
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


def config_of(sweep: Sweep, overrides: Overrides) -> ConfigDict:
    """The base config with some fields changed, which the sweep file's reading has checked."""
    config = ConfigDict(sweep.base.to_dict())
    for field, value in overrides.items():
        *groups, key = field.split(".")
        place = config
        for group in groups:
            place = place[group]
        with place.unlocked():
            place[key] = tuple(value) if isinstance(value, list) else value
    return config

"""Every setting of a sweep is built once, and its metrics are looked at; in a process of its own.

  python -m ddpm_jax.commands.sweep.check --sweep=F

The sweep command itself imports no jax: this does, and ends. Nothing is trained, no data are read.
"""

from absl import flags

from ddpm_jax import cli
from ddpm_jax.errors import UserError
from ddpm_jax.sweeps import sweep_file
from ddpm_jax.sweeps.sweep_file import Sweep


def check(sweep: Sweep) -> int:
    """Build one cell of each setting; returns how many there are.

    Raises:
      UserError: naming the cell and what it cannot be, or the metric that it does not have.
    """
    from ml_collections import ConfigDict

    from ddpm_jax import experiment
    from ddpm_jax.config import config_files
    from ddpm_jax.measures import metric_table, training_evaluation
    from ddpm_jax.trained import program

    metrics = metric_table.named(sweep.evaluate["metrics"]) if sweep.evaluate else []
    settings = {cell.setting: cell for cell in reversed(sweep.cells)}  # the first of each
    for cell in settings.values():
        config = ConfigDict(sweep.base.to_dict())
        for field, value in {**cell.overrides, **cell.sampling}.items():
            *groups, key = field.split(".")
            place = config
            for group in groups:
                place = place[group]
            with place.unlocked():
                place[key] = tuple(value) if isinstance(value, list) else value
        try:
            config = config_files.resolve(config)
            built = experiment.build(config, own=experiment.imported_parts(config))
            training_evaluation.check(config)
            program.check(built)
            for metric in metrics:
                metric_table.check_kind(metric, built.kind)
        except UserError as error:
            raise UserError(f"cell {cell.name}: {error}") from error
    return len(settings)


def main() -> None:
    """The command."""
    cli.require("sweep", "name a sweep file")
    cli.use_compile_cache()
    cli.use_devices()
    check(sweep_file.read(flags.FLAGS.sweep))


if __name__ == "__main__":
    flags.DEFINE_string("sweep", None, "the sweep file")
    cli.run(main)

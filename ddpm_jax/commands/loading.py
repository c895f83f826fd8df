"""Runs that a command reads, with the modules that hold their own parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_jax import experiment
from ddpm_jax.config import config_files, own_code
from ddpm_jax.config.own_code import NONE, Own


def own_parts(workdir: str | Path, modules: Sequence[str]) -> Own:
    """The parts that a workdir's config names, of those modules alone.

    Args:
      workdir: of a run.
      modules: "package.module" as --code names them, which are imported.

    Raises:
      UserError: for a module that cannot be imported, or that lacks a part that the run names.
    """
    config = config_files.read(workdir)
    if config is None or not modules:
        return NONE
    return own_code.from_modules(modules, config_files.own_names(config).values())


def load(workdir: str | Path, modules: Sequence[str] = (), **options: Any) -> experiment.Loaded:
    """As `experiment.load`, with the own parts that lie in `modules`. Raises UserError as both."""
    return experiment.load(workdir, own=own_parts(workdir, modules), **options)

"""What a run begins or goes on with: weights of train.init_from, or its newest checkpoint."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.build import kept, pipelines
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.build.starting_weights import StartingWeights
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import drift
from ddpm_jax.runtime import processes
from ddpm_jax.training import snapshots
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.state import TrainState


def resolved(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The config as a run keeps it, with what the pipeline that it begins with decides.

    Of a run that goes on, this is what its workdir says: the pipeline's folder may be gone.

    Args:
      config: the experiment's.
      workdir: where the run lives, or will.

    Raises:
      UserError: as `config_files.resolve` and `pipelines.filled`.
    """
    saved = config_files.read(workdir) if drift.has_checkpoints(workdir) else None
    return pipelines.filled(config_files.resolve(config), saved)


def weights_before_data(experiment: Experiment, workdirs: Sequence[Path]) -> StartingWeights | None:
    """The weights that runs begin with, where one has no checkpoint: a resume never reads them.

    Raises:
      UserError: as `Experiment.starting_weights`, before any data are read.
    """
    fresh = not all(map(drift.has_checkpoints, workdirs))
    return experiment.starting_weights() if processes.of_first(fresh) else None


def state(
    experiment: Experiment,
    checkpoints: Checkpoints,
    weights: StartingWeights | None,
    say: Callable[[str], None],
) -> tuple[TrainState, int, dict[str, Any]]:
    """The state that a run goes on from, its step, and what `tell` returns.

    Args:
      experiment: the run's.
      checkpoints: the run's, of which the newest whole one is taken.
      weights: that were read already, for a run that has none.
      say: takes a line for the user.

    Raises:
      UserError: as `Checkpoints.restore_newest` and `Experiment.starting_weights`.
    """
    if resumed := checkpoints.restore_newest(experiment.state_shapes(), say):
        _tell_kept(checkpoints.directory.parent, experiment.config, say)
        return *resumed, {}
    weights = weights or experiment.starting_weights()
    return experiment.init_state(weights), 0, tell(weights, say)


def discard_later(workdir: Path, start: int, say: Callable[[str], None]) -> None:
    """Delete the snapshots of steps that a run which goes on from `start` makes again."""
    if processes.is_first() and (steps := snapshots.discard_after(workdir, start)):
        say(f"snapshots after step {start:,} are made again: {', '.join(map(str, steps))}")


def tell(weights: StartingWeights | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Say what a run begins with; returns it for the manifest, {} for nothing."""
    for line in weights.lines if weights and processes.is_first() else ():
        say(line)
    return weights.record if weights else {}


def _tell_kept(workdir: Path, config: ConfigDict, say: Callable[[str], None]) -> None:
    """Say which network of others the config names now, where the run keeps one of before."""
    saved = config_files.read(workdir)
    if saved is None or not processes.is_first():
        return
    for name, stored, here in config_files.differences(saved, config):
        if name in kept.TREES.values() and stored and here:
            say(
                f"config.{name}={here}: this run goes on with the copy that it keeps of {stored}; "
                "to take another one, start elsewhere with --workdir=NEW"
            )


def make_writable(workdir: Path) -> None:
    """Make the workdir. Raises UserError where nothing can be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--workdir={workdir}: cannot write there ({reason})") from error

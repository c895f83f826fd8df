"""Another run's network with its parameters: for a teacher, an encoder, or to sample from."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from ddpm_jax.build import assemble
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.config import config_files
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.errors import UserError
from ddpm_jax.training import checkpoints


class Frozen(NamedTuple):
    """What a workdir holds of a trained run.

    Attributes:
      experiment: what its config describes, on all devices of this machine.
      params: the parameters, the moving average unless raw ones were asked for; give them to an
        objective by name, `dataclasses.replace(run, frozen={"teacher": frozen.params})`, and their
        digest is in the manifest.
      step: of the checkpoint.
      checkpoint: its digest, the run's state_sha256 at that step.
      config_sha256: of the run's config.
      parameters: "ema" or "raw".
    """

    experiment: Experiment
    params: Any
    step: int
    checkpoint: str
    config_sha256: str
    parameters: str


def read(
    workdir: str | Path,
    *,
    step: int | str | None = None,
    raw_params: bool = False,
    own: Own = NONE,
    data_dir: str | None = None,
    check: Callable[[Experiment], None] = lambda experiment: None,
) -> Frozen:
    """The network that was trained in `workdir`, and its parameters; nothing there is executed.

    Args:
      workdir: of a run.
      step: of the checkpoint; "best" for the smallest validation loss; None for the latest.
      raw_params: take the parameters themselves instead of their moving average.
      own: the parts that are the user's own, {"package.module:name": part}: a workdir imports
        nothing, whatever its config.json names.
      data_dir: where its data lie now; None for where they lay.
      check: called with the experiment before its checkpoint is read; raises what does not fit.

    Raises:
      UserError: if there is no such run or checkpoint, or for an own part that is not handed over.
    """
    config = config_files.read(workdir)
    if config is None:
        raise UserError(
            f"no checkpoint in {workdir}: it has no config.json; train one there, or "
            "name another --workdir"
        )
    try:
        experiment = assemble.build(_here(config, data_dir), own)
        check(experiment)
        shapes = experiment.state_shapes()
    except (AttributeError, KeyError) as error:
        reason = str(error).strip("\"'").splitlines()[0]
        raise UserError(
            f"{workdir}/config.json has no field {reason}: another version wrote it"
        ) from error
    except UserError:
        raise
    except Exception as error:  # fields of another type fail wherever they are first used
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{workdir}/config.json describes nothing that can be built ({reason}): another "
            "version wrote it, or it is damaged; name another --workdir"
        ) from error
    with checkpoints.Checkpoints(workdir, read_only=True) as saved:
        step = saved.newest_whole(_say) if step is None else _numbered(saved, step)
        params = saved.restore_params(step, "raw" if raw_params else "default", shapes.params)
        checkpoint = saved.records()[step].state_sha256
    sha256 = config_files.sha256(config.to_dict())
    return Frozen(experiment, params, step, checkpoint, sha256, "raw" if raw_params else "ema")


def _here(config: ConfigDict, data_dir: str | None) -> ConfigDict:
    """On all devices of this machine, whatever trained it, with batches that they divide."""
    devices, _ = jax.device_count(), config.mesh  # without which no run was written
    try:
        batch_size = -(-config.data.batch_size // devices) * devices
    except TypeError:  # a batch size that is not a number, which `build` refuses by name
        batch_size = config.data.batch_size
    elsewhere = {} if data_dir is None else {"data_dir": os.path.abspath(data_dir)}
    return config_files.override(
        config,
        {"mesh": {"data": devices, "fsdp": 1}, "data": {"batch_size": batch_size, **elsewhere}},
    )


def _numbered(saved: checkpoints.Checkpoints, step: int | str) -> int:
    """The number of the step that is asked for. Raises UserError if there is no such checkpoint."""
    if str(step).isdecimal():
        return saved.check(int(step))
    if step != "best":
        raise UserError(f"step={step}: need the number of a checkpoint, or best")
    saved.check(None)
    if (best := saved.best()) is None:
        raise UserError(
            f"step=best: no checkpoint in {saved.directory} has a validation loss; train with "
            "config.train.validate_every at the steps of checkpoint_every, or name another step"
        )
    return best


def _say(line: str) -> None:
    print(line, file=sys.stderr)

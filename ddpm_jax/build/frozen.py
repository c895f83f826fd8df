"""Another run's network with its parameters: for a teacher, an encoder, or to sample from."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from ddpm_jax.build import assemble, averages, kept
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
      parameters, reconstruction: which they are, as of `averages.Read`.
    """

    experiment: Experiment
    params: Any
    step: int
    checkpoint: str
    config_sha256: str
    parameters: str
    reconstruction: Mapping[str, Any] = MappingProxyType({})


def read(
    workdir: str | Path,
    *,
    step: int | str | None = None,
    ema: str | float | None = None,
    raw_params: bool = False,
    own: Own = NONE,
    data_dir: str | None = None,
    check: Callable[[Experiment], None] = lambda experiment: None,
) -> Frozen:
    """The network that was trained in `workdir`, and its parameters; nothing there is executed.

    Args:
      workdir: of a run.
      step: of the checkpoint; "best" for the smallest validation loss; None for the latest.
      ema: which moving average: a decay that the run kept, 0.999, or a power average of a relative
        width, "std:0.05", which is made of the run's snapshots where it was not kept; None for
        that of config.ema.decay.
      raw_params: take the parameters themselves instead of their moving average.
      own: the parts that are the user's own, {"package.module:name": part}: a workdir imports
        nothing, whatever its config.json names.
      data_dir: where its data lie now; None for where they lay.
      check: called with the experiment before its checkpoint is read; raises what does not fit.

    Raises:
      UserError: if there is no such run, checkpoint or average, or for an own part that is not
        handed over.
    """
    config = config_files.read(workdir)
    if config is None:
        raise UserError(
            f"no checkpoint in {workdir}: it has no config.json; train one there, or "
            "name another workdir"
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
            "version wrote it, or it is damaged; name another workdir"
        ) from error
    experiment = kept.with_kept(experiment, workdir)
    kept.check(experiment, workdir)
    with checkpoints.Checkpoints(workdir, read_only=True) as saved:
        one = averages.read(
            saved,
            experiment.config,
            shapes.params,
            step=step,
            asked=ema,
            raw_params=raw_params,
            say=_say,
        )
    sha256 = config_files.sha256(config.to_dict())
    return Frozen(
        experiment,
        one.params,
        one.step,
        one.checkpoint,
        sha256,
        one.parameters,
        one.reconstruction,
    )


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


def _say(line: str) -> None:
    print(line, file=sys.stderr)

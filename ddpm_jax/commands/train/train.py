"""A training run from its config and workdir."""

import functools
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from ddpm_jax.config import config_files
from ddpm_jax.config.own_code import Own
from ddpm_jax.experiment import beginning, build, group, imported_parts, running
from ddpm_jax.runtime import files
from ddpm_jax.runtime.peers import ALONE, Peers


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    until: int | None = None,
    allow_drift: Sequence[str] = (),
    overrides: Sequence[str] = (),
    own: Own | None = None,
    lock_wait: float = files.PROBED,
    profile: str = "",
    began: float | None = None,
    peers: Peers = ALONE,
) -> int:
    """Train in `workdir`, or go on with what is there; returns the exit code.

    Args:
      config: the experiment.
      workdir: where the run lives; the runs of config.train.replicas, in DIR/replicas/seed=S.
      until: stop and save at this step, as a signal would; None for train.num_steps.
      allow_drift: fields in which the config may differ from that of what is there.
      overrides: what the command line changed in the config, for the manifest.
      own: the user's own parts; None imports what the config names, which the caller wrote.
      lock_wait: seconds to wait for another process that has the workdir and may be ending.
      profile: START:STOP, the steps to trace; "" for none.
      began: when the attempt began, as `time.monotonic` tells it; None for now.
      peers: the other processes of the run, of `joining.joined`.

    Returns, Raises: as `experiment.train`; also UserError for a config that does not fit.
    """
    config = config_files.resolve(config)
    own = imported_parts(config) if own is None else own
    if config.train.replicas != 1:
        return group.train_replicas(
            config,
            workdir,
            own=own,
            until=until,
            allow_drift=allow_drift,
            overrides=overrides,
            profile=profile,
            began=began,
        )
    config = beginning.resolved(config, Path(workdir))
    return running.start(
        config,
        functools.partial(build, config, own=own),
        workdir,
        own=own,
        until=until,
        allow_drift=allow_drift,
        overrides=overrides,
        lock_wait=lock_wait,
        profile=profile,
        began=began,
        peers=peers,
    )

"""A power average that a run did not keep, as a workdir of its own."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from ddpm_jax.build import kept
from ddpm_jax.commands.loading import load
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import described, drift
from ddpm_jax.runtime import files
from ddpm_jax.training import ema, post_hoc, step_files
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.state import TrainState


def write(
    workdir: Path, std: float, out: Path, *, step: int | None = None, code: Sequence[str] = ()
) -> int:
    """Write the power average of a relative width as a workdir, whole or not at all.

    It holds the run's config.json, a checkpoint with the average alone, and average.json, which
    says what it was made of. Commands that draw or measure take it like the run itself.

    Args:
      workdir: of a run with snapshots.
      std: the standard deviation of the average's profile over its length.
      out: the new workdir.
      step: of a checkpoint or a snapshot of the run; None for the newest checkpoint.
      code: modules that hold the run's own parts, "package.module".

    Raises:
      UserError: for a width that is out of range or of which the snapshots are not enough, no such
        run or step, or an `out` that is there or cannot be written.
    """
    try:
        post_hoc.exponent(std)
    except ValueError as error:
        raise UserError(f"--std={std}: {error}") from error
    if out.exists():
        raise UserError(f"--out={out} is there already: name a new folder")
    name = ema.power_name(std)
    loaded = load(workdir, code, step=step, ema=name)
    config = config_files.read(workdir)
    assert config is not None  # it was loaded
    state = TrainState(
        step=jnp.int32(loaded.step),
        key=jax.random.key(config.seed),
        params={},
        ema={name: loaded.params},
        opt_state={},
        extra={},
    )
    partial = out.absolute().with_name(f".{out.absolute().name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        config_files.write(partial, config)
        kept.keep(loaded.experiment, partial)
        content = {"of": str(workdir), "step": loaded.step, **described(loaded)}
        files.must_write_json(partial / drift.AVERAGE, content)
        with Checkpoints(partial) as saved:
            saved.save(loaded.step, state)
            saved.wait()
        os.rename(partial, out)
    except OSError as error:
        raise UserError(f"--out={out}: cannot write it ({step_files.reason(error)})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    how = "" if loaded.reconstruction else ", which the run kept,"
    print(f"step {loaded.step:,}: {name}{how} in {out}", file=sys.stderr)
    return 0

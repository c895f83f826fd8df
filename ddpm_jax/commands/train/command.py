"""Train a diffusion model, or go on with the run in --workdir.

  python scripts/train.py --config=configs/digits.py --workdir=runs/digits

Any field of the config can be set: --config.optim.learning_rate=1e-3; all of them are listed in
ddpm_jax/config/defaults.py. Exit code 75 means stopped by a signal and saved: run the same command
again. On several machines, start it on each with --coordinator; they share the --workdir. Exit code
76 means that another process of the run is gone: run the same command again, in all.
"""

import json
import sys
import time

from absl import flags
from ml_collections import config_flags

from ddpm_jax import cli, command_words
from ddpm_jax.config import earlier
from ddpm_jax.errors import UserError

MOVED = earlier.place
MEASURE = "measure"


class _DryRun(flags.ArgumentParser):
    """A bool, or "measure"."""

    def parse(self, argument: str | bool) -> str | bool:
        return argument if argument == MEASURE else flags.BooleanParser().parse(argument)

    def flag_type(self) -> str:
        return "bool or measure"


def define() -> None:
    """Define the command's flags."""
    config_flags.DEFINE_config_file("config", help_string="the experiment's config file")
    flags.DEFINE_string("workdir", None, "where the run lives; what is there is resumed")
    flags.DEFINE(
        _DryRun(),
        "dry_run",
        False,
        "print parameters, FLOP and memory of a step, and data shapes, then exit; =measure times "
        "20 steps too, forecasts the whole run, and keeps that in --workdir, if one is named",
        boolean=True,
    )
    flags.DEFINE_list(
        "allow_drift",
        [],
        "config fields that may differ from those of what is resumed: optim.learning_rate,seed; "
        "data.fingerprint stands for the images themselves",
    )
    flags.DEFINE_integer(
        "replay_step", None, "print the loss of each example of this step of the run, and exit"
    )
    flags.DEFINE_string(
        "profile",
        "",
        "START:STOP: trace these steps into WORKDIR/profile, for xprof and Perfetto",
    )
    flags.DEFINE_float(
        "lock_wait",
        0.1,
        "seconds to wait for another process that still has the workdir, such as a stopping one",
        0.0,
    )
    for name in (
        "compile_cache", "code_path", "coordinator", "num_processes", "process_id", "join_timeout"
    ):  # fmt: skip
        flags.declare_key_flag(name)


def main() -> int | None:
    """Train, replay a step, or print what a run would cost, as the flags say."""
    began = time.monotonic()
    f = flags.FLAGS
    cli.require("config", "name a file of configs/, say configs/digits.py")
    cli.use_code_path()
    cli.use_compile_cache()
    if not f.dry_run:
        cli.require("workdir", "name the folder that the run should live in")
        if f.replay_step is None:
            return _trained(began)
    cli.use_devices()
    from ddpm_jax.commands.train import dry_run, replay

    if f.dry_run:
        measure = f.dry_run == MEASURE
        told = dry_run.dry_run(f.config, measure=measure, workdir=f.workdir, began=began)
        print(json.dumps(told, indent=2))
        return 0
    seen = replay.replay(f.config, f.workdir, f.replay_step, allow_drift=f.allow_drift)
    print(json.dumps(seen, indent=2, allow_nan=False))
    return 0


def _trained(began: float) -> int:
    """Train, alone or with other processes; the exit code."""
    f = flags.FLAGS
    if f.coordinator is None and f["join_timeout"].present:
        raise UserError("--join_timeout needs --coordinator")
    from ddpm_jax.runtime import joining

    # Before any device is used.
    with joining.joined(f.coordinator, f.num_processes, f.process_id, f.join_timeout) as peers:
        cli.use_devices()
        from ddpm_jax.commands.train import train

        return train.train(
            f.config,
            f.workdir,
            allow_drift=f.allow_drift,
            overrides=command_words.overrides(f.read_flags_from_files(sys.argv)),
            lock_wait=f.lock_wait,
            profile=f.profile,
            began=began,
            peers=peers,
        )

"""Train a diffusion model, or go on with the run in --workdir.

  python scripts/train.py --config=configs/digits.py --workdir=runs/digits

Any field of the config can be set: --config.optim.learning_rate=1e-3; all of them are listed in
ddpm_jax/config/defaults.py. Exit code 75 means stopped by a signal and saved: run the same command
again. On several machines, start it on each with --coordinator; they share the --workdir.
"""

import json
import sys

from absl import flags
from ml_collections import config_flags

from ddpm_jax import cli
from ddpm_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", help_string="the experiment's config file")
_WORKDIR = flags.DEFINE_string("workdir", None, "where the run lives; what is there is resumed")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "print parameters, FLOP and memory of a step, and data shapes; then exit"
)
_ALLOW_DRIFT = flags.DEFINE_list(
    "allow_drift",
    [],
    "config fields that may differ from those of what is resumed: optim.learning_rate,seed; "
    "data.fingerprint stands for the images themselves",
)
_REPLAY_STEP = flags.DEFINE_integer(
    "replay_step", None, "print the loss of each example of this step of the run, and exit"
)
for name in ("compile_cache", "coordinator", "num_processes", "process_id"):
    flags.declare_key_flag(name)


def main() -> int | None:
    if _CONFIG.value is None:
        raise UserError("--config is missing: name a file of configs/, say configs/digits.py")
    cli.use_compile_cache()
    from ddpm_jax.commands.train import dry_run, replay, train

    if _DRY_RUN.value:
        print(json.dumps(dry_run.dry_run(_CONFIG.value), indent=2))
        return 0
    if _WORKDIR.value is None:
        raise UserError("--workdir is missing: name the folder that the run should live in")
    drift = _ALLOW_DRIFT.value
    if _REPLAY_STEP.value is not None:
        told = replay.replay(_CONFIG.value, _WORKDIR.value, _REPLAY_STEP.value, allow_drift=drift)
        print(json.dumps(told, indent=2, allow_nan=False))
        return 0
    cli.join_processes()
    overrides = cli.overrides(sys.argv)
    return train.train(_CONFIG.value, _WORKDIR.value, allow_drift=drift, overrides=overrides)


if __name__ == "__main__":
    cli.run(main)

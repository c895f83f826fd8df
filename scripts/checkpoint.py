"""List, verify or export the checkpoints of a run.

  python scripts/checkpoint.py list --workdir=DIR
  python scripts/checkpoint.py verify --workdir=DIR [--step=N]
  python scripts/checkpoint.py export --workdir=DIR --out=F.safetensors [--step=N] [--raw_params]

verify compares every file with the digests written with it and exits with 1 if one differs. export
writes the moving average of the parameters, which any reader of safetensors can open.
"""

from pathlib import Path

from absl import flags

from ddpm_jax import cli
from ddpm_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "the run's folder")
_STEP = flags.DEFINE_integer("step", None, "this one alone; export: the latest by default")
_OUT = flags.DEFINE_string("out", None, "export: the .safetensors file to write")
_RAW = flags.DEFINE_bool("raw_params", False, "export: not the moving average")


def main(action: str) -> int:
    if _WORKDIR.value is None:
        raise UserError("--workdir is missing: name the folder of a run")
    from ddpm_jax.commands.checkpoint import (
        checkpoint,  # after the flags: a mistake answers at once
    )

    workdir = Path(_WORKDIR.value)
    if action == "list":
        return checkpoint.show(workdir)
    if action == "verify":
        return checkpoint.verify(workdir, _STEP.value)
    if _OUT.value is None:
        raise UserError("--out is missing: name the .safetensors file to write")
    return checkpoint.export(workdir, _STEP.value, Path(_OUT.value), _RAW.value)


if __name__ == "__main__":
    cli.run(main, actions={"list": 0, "verify": 0, "export": 0})

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

ACTIONS = {"list": 0, "verify": 0, "export": 0}


def define() -> None:
    """Define the command's flags."""
    flags.DEFINE_string("workdir", None, "the run's folder")
    flags.DEFINE_integer("step", None, "this one alone; export: the latest by default")
    flags.DEFINE_string("out", None, "export: the .safetensors file to write")
    flags.DEFINE_bool("raw_params", False, "export: not the moving average")
    for name in ("code", "code_path"):
        flags.declare_key_flag(name)


def main(action: str) -> int:
    """List, verify or export, as the action says."""
    f = flags.FLAGS
    cli.require("workdir", "name the folder of a run")
    if action == "export":
        cli.require("out", "name the .safetensors file to write")
    cli.start_jax()
    from ddpm_jax.commands.checkpoint import checkpoint

    workdir = Path(f.workdir)
    if action == "list":
        return checkpoint.show(workdir)
    if action == "verify":
        return checkpoint.verify(workdir, f.step)
    return checkpoint.export(workdir, f.step, Path(f.out), f.raw_params, f.code)

"""List, verify or export the checkpoints of a run, or average them anew.

  python scripts/checkpoint.py list --workdir=DIR
  python scripts/checkpoint.py verify --workdir=DIR [--step=N]
  python scripts/checkpoint.py export --workdir=DIR --out=F.safetensors [--step=N] [--ema=0.999]
  python scripts/checkpoint.py export --workdir=DIR --out=FOLDER --format=diffusers
  python scripts/checkpoint.py export --workdir=DIR --out=F.safetensors --format=lora
  python scripts/checkpoint.py average --workdir=DIR --std=0.08 --out=NEW [--step=N]

verify compares every file with the digests written with it and exits with 1 if one differs. export
writes the moving average of the parameters, which any reader of safetensors can open; for diffusers
a U-Net or an autoencoder, of a run of latents both, of one that tuned a pipeline all of it, as its
from_pretrained reads them; as lora the adapters of a tuned pipeline alone. average makes the power
average of another width, of the snapshots that ema.snapshots_every kept, and writes it as a workdir
to sample from and to evaluate.
"""

from pathlib import Path

from absl import flags

from ddpm_jax import cli, sample_flags

ACTIONS = {"list": 0, "verify": 0, "export": 0, "average": 0}

# {flag: (the actions that take it, what to do where it is missing, or "")}
NEEDED = {
    "out": (("export", "average"), "name the .safetensors file, or the workdir, to write"),
    "std": (("average",), "name the relative width of the average, 0.08"),
    "ema": (("export",), ""),
    "raw_params": (("export",), ""),
    "format": (("export",), ""),
}


def define() -> None:
    """Define the command's flags."""
    flags.DEFINE_string("workdir", None, "the run's folder")
    flags.DEFINE_integer("step", None, "this one alone; export, average: the latest by default")
    flags.DEFINE_string("out", None, "export: the .safetensors file to write; average: the workdir")
    flags.DEFINE_enum(
        "format",
        "safetensors",
        ["safetensors", "diffusers", "lora"],
        "export: a file, diffusers' folder, or a file of a pipeline's adapters alone",
    )
    flags.DEFINE_float("std", None, "average: standard deviation of its profile over its length")
    sample_flags.define_average()
    flags.adopt_module_key_flags(sample_flags)
    for name in ("code", "code_path"):
        flags.declare_key_flag(name)


def main(action: str) -> int:
    """List, verify, export or average, as the action says."""
    f = flags.FLAGS
    cli.require("workdir", "name the folder of a run")
    for name, (actions, missing) in NEEDED.items():
        if action in actions and missing:
            cli.require(name, missing)
        elif action not in actions:
            cli.refuse([name], f"applies only to {' and '.join(actions)}, not to {action}")
    cli.start_jax()
    from ddpm_jax.commands.checkpoint import average, checkpoint, to_diffusers

    workdir = Path(f.workdir)
    if action == "list":
        return checkpoint.show(workdir)
    if action == "verify":
        return checkpoint.verify(workdir, f.step)
    if action == "average":
        return average.write(workdir, f.std, Path(f.out), step=f.step, code=f.code)
    export = {
        "safetensors": checkpoint.export,
        "diffusers": to_diffusers.export,
        "lora": to_diffusers.export_adapters,
    }[f.format]
    return export(workdir, f.step, Path(f.out), f.raw_params, f.code, ema=f.ema)

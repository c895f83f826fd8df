"""Train a run again from its manifest, and say whether it ends in the same bits.

  python scripts/reproduce.py --manifest=runs/digits/manifest.json --workdir=runs/digits_again

Lists on stderr what differs around it (packages, commit, machine), then trains. The result on
stdout is JSON: {"equal", "differences", "expected", "got"}. If the run never finished, its newest
checkpoint is compared. Exit code 0: equal; 1: different; 75: stopped, run the same command again.
"""

import json

from absl import flags

from ddpm_jax import cli


def define() -> None:
    """Define the command's flags."""
    text = flags.DEFINE_string
    text("manifest", None, "manifest.json of the run to repeat; only read")
    text("workdir", None, "where it is repeated: new, or begun so before")
    text("data_dir", None, "where the data lie, if not where they lay")
    for name in ("compile_cache", "code", "code_path"):
        flags.declare_key_flag(name)


def main() -> int:
    """Repeat the run that the flags name, and print whether it ended in the same bits."""
    f = flags.FLAGS
    cli.require("manifest", "name the manifest.json of the run to repeat")
    cli.require("workdir", "name a new folder")
    cli.start_jax()
    from ddpm_jax.commands.reproduce import reproduce

    result, code = reproduce.reproduce(f.manifest, f.workdir, data_dir=f.data_dir, code=f.code)
    print(json.dumps(result, indent=2))
    return code

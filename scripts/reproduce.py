"""Train a run again from its manifest, and say whether it ends in the same bits.

  python scripts/reproduce.py --manifest=runs/digits/manifest.json --workdir=runs/digits_again

Lists on stderr what differs around it (packages, commit, machine), then trains. The result on
stdout is JSON: {"equal", "differences", "expected", "got"}. If the run never finished, its newest
checkpoint is compared. Exit code 0: equal; 1: different; 75: stopped, run the same command again.
"""

import json

from absl import flags

from ddpm_jax import cli
from ddpm_jax.errors import UserError

_MANIFEST = flags.DEFINE_string("manifest", None, "manifest.json of the run to repeat; only read")
_WORKDIR = flags.DEFINE_string("workdir", None, "where it is repeated: new, or begun so before")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "where the data lie, if not where they lay")
flags.declare_key_flag("compile_cache")


def main() -> int:
    if not _MANIFEST.value:
        raise UserError("--manifest is missing: name the manifest.json of the run to repeat")
    if not _WORKDIR.value:
        raise UserError("--workdir is missing: name a new folder")
    cli.use_compile_cache()
    from configs import default  # after cli.run: configs/ stands beside scripts/
    from ddpm_jax.commands.reproduce import reproduce

    result, code = reproduce.reproduce(
        _MANIFEST.value, _WORKDIR.value, default.get_config(), data_dir=_DATA_DIR.value
    )
    print(json.dumps(result, indent=2))
    return code


if __name__ == "__main__":
    cli.run(main)

"""Do to runs what machines do to them, many times, and write down what came of it.

  python scripts/fault_campaign.py --kills=200 --flips=1000 --out=F.json

kills: SIGKILL at random times and inside save, rename, clean-up and restore, then the same command
again until the run has finished: is its state that of a run that nothing disturbed? terms: the same
with SIGTERM and SIGINT. flips: single bits flipped anywhere in a checkpoint, its files cut and
deleted. injections: batches that are no numbers. reruns: configs/digits.py for 1,000 steps, again
and again. Stopped, the same command goes on with F.json. Takes an hour on 2 cores. Exit code 1 if
anything failed.
"""

import os
import sys
from pathlib import Path

from absl import flags

from ddpm_jax import cli
from ddpm_jax.errors import UserError

_OUT = flags.DEFINE_string("out", None, "the JSON file to write, and to go on with")
_COUNTS = {
    "kills": flags.DEFINE_integer("kills", 200, "kills -9"),
    "terms": flags.DEFINE_integer("terms", 20, "stops by SIGTERM and SIGINT"),
    "flips": flags.DEFINE_integer("flips", 1000, "flipped bits"),
    "injections": flags.DEFINE_integer("injections", 100, "batches that are no numbers"),
    "reruns": flags.DEFINE_integer("reruns", 10, "reruns of the digits config"),
}
_JOBS = flags.DEFINE_integer("jobs", 1, "runs at a time, of kills and terms")
flags.declare_key_flag("compile_cache")


def main() -> int:
    for name, count in _COUNTS.items():
        if count.value < 0:
            raise UserError(f"--{name}={count.value}: need at least 0")
    if _JOBS.value < 1:
        raise UserError(f"--jobs={_JOBS.value}: need at least 1")
    if not _OUT.value:
        raise UserError("--out is missing: name the JSON file to write")
    if Path(_OUT.value).is_dir():
        raise UserError(f"--out={_OUT.value} is a folder: name the JSON file to write")
    # One device, as in the processes that are killed.
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
    cli.start_jax()
    # The runs and what is done to them are the tests' own, and stand beside them.
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from faults import campaign as faults

    def say(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    with faults.Campaign(Path(_OUT.value), say, _JOBS.value) as campaign:
        for name, count in _COUNTS.items():
            if count.value:
                getattr(faults, name)(campaign, count.value)
        print(faults.dumps(campaign.record))
        failures = faults.failures(campaign.record)
    for failure in failures:
        print(f"FAILS: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    cli.run(main)

"""Run a sweep: every cell of a sweep file as an ordinary run, and their results with intervals.

  python scripts/sweep.py plan --sweep=configs/sweeps/seeds.py --workdir=sweeps/seeds
  python scripts/sweep.py run --sweep=configs/sweeps/seeds.py --workdir=sweeps/seeds --jobs=2
  python scripts/sweep.py status --sweep=configs/sweeps/seeds.py --workdir=sweeps/seeds
  python scripts/sweep.py retry --sweep=configs/sweeps/seeds.py --workdir=sweeps/seeds
  python scripts/sweep.py report --sweep=configs/sweeps/seeds.py --workdir=sweeps/seeds

A sweep file is a config file with a function sweep() more, which returns the overrides of each
cell; see docs/sweeps.md. Each cell is an ordinary workdir, DIR/cells/NAME, that every other command
takes. Exit code 75 means stopped by a signal, every cell saved: run the same command again.
"""

from absl import flags

from ddpm_jax import cli

ACTIONS = {"plan": 0, "run": 0, "status": 0, "retry": 0, "report": 0}
OF_REPORT = ("baseline", "allow")


def define() -> None:
    """Define the command's flags."""
    flags.DEFINE_string("sweep", None, "the sweep file, say configs/sweeps/seeds.py")
    flags.DEFINE_string("workdir", None, "where the sweep lives; its cells are in DIR/cells")
    flags.DEFINE_integer("jobs", 1, "run: cells at a time on this machine", 1)
    flags.DEFINE_integer(
        "attempts", 3, "failed tries in a row, none further than the one before, of a cell", 1
    )
    flags.DEFINE_string("baseline", None, "report: the setting that others are compared with")
    flags.DEFINE_list("allow", [], "report: fields of the protocol that may differ between cells")
    for name in ("compile_cache", "code_path"):
        flags.declare_key_flag(name)


def main(action: str) -> int | None:
    """Plan, run, look at or report a sweep, as the action says."""
    cli.require("sweep", "name a sweep file, say configs/sweeps/seeds.py")
    cli.require("workdir", "name the folder that the sweep should live in")
    if action != "report":
        cli.refuse(OF_REPORT, "applies only to report")
    cli.use_code_path()
    from ddpm_jax.commands.sweep import sweep

    return sweep.ACTIONS[action](sweep.Request.from_flags())

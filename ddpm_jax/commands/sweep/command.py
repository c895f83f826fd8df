"""Run a sweep: every cell of a sweep file as an ordinary run, and their results with intervals.

  python scripts/sweep.py plan --sweep=configs/sweeps/seeds.py --workdir=sweeps/seeds
  python scripts/sweep.py run --sweep=configs/sweeps/seeds.py --workdir=sweeps/seeds --jobs=2
  python scripts/sweep.py status --sweep=configs/sweeps/seeds.py --workdir=sweeps/seeds
  python scripts/sweep.py run --sweep=... --workdir=... --launcher=slurm
  python scripts/sweep.py report --sweep=configs/sweeps/seeds.py --workdir=sweeps/seeds
  python scripts/sweep.py prove --sweep=SMALL.py --workdir=sweeps/proof --kills=20
  python scripts/sweep.py bisect --a=runs/one --b=runs/other
  python scripts/sweep.py retry --sweep=configs/sweeps/seeds.py --workdir=sweeps/seeds

"check" builds every setting and trains nothing; "retry" lets cells that failed too often be tried
again; "prove" runs a small sweep twice, kills the second one again and again, and compares bits;
"bisect" names the first step and tensor in which two runs differ. A sweep file is a config file
with a function sweep() more, which returns the overrides of each cell; see docs/sweeps.md. Each
cell is an ordinary workdir, DIR/cells/NAME, that every other command takes. Exit code 75 means
stopped by a signal, every cell saved: run the same command again.
"""

import sys
from pathlib import Path

from absl import flags

from ddpm_jax import cli

ACTIONS = {
    "plan": 0,
    "check": 0,
    "group": 0,
    "run": 0,
    "status": 0,
    "retry": 0,
    "report": 0,
    "prove": 0,
    "bisect": 0,
}
# Flags that one action alone reads.
OF_ACTION = {
    "plan": ("measure",),
    "group": ("group",),
    "report": ("baseline", "allow"),
    "prove": ("kills", "kill_seed", "node_loss"),
    "bisect": ("a", "b", "json", "code"),
}


def define() -> None:
    """Define the command's flags."""
    flags.DEFINE_string("sweep", None, "the sweep file, say configs/sweeps/seeds.py")
    flags.DEFINE_string("workdir", None, "where the sweep lives; its cells are in DIR/cells")
    flags.DEFINE_integer(
        "jobs", None, "run: cells at a time; here 1, on a cluster as many as it lets run", 1
    )
    flags.DEFINE_enum(
        "launcher",
        "local",
        ["local", "slurm", "k8s"],
        "run: on this machine; as an array of Slurm; or as a Kubernetes Job, written and not sent",
    )
    flags.DEFINE_enum(
        "vectorize",
        None,
        ["auto", "on", "off"],
        "run: train cells that differ in seed and a few numbers in one program, 8 at a time; by "
        "default auto: on GPUs and TPUs, where a few steps show that it is faster",
    )
    flags.DEFINE_integer("group", 0, "group: which of plan.json to train, as `run` does", 0)
    flags.DEFINE_bool("dry_run", False, "run: with slurm, only write what would be submitted")
    flags.DEFINE_integer(
        "attempts", 3, "failed tries in a row, none further than the one before, of a cell", 1
    )
    flags.DEFINE_bool(
        "measure", False, "plan: time a few steps of one cell of each shape, and forecast the cost"
    )
    flags.DEFINE_string("baseline", None, "report: the setting that others are compared with")
    flags.DEFINE_list("allow", [], "report: fields of the protocol that may differ between cells")
    flags.DEFINE_integer("kills", 20, "prove: at so many random times", 0)
    flags.DEFINE_integer("kill_seed", 0, "prove: of the times")
    flags.DEFINE_string(
        "node_loss", "", "prove, with slurm: a command that takes a node down and brings it back"
    )
    flags.DEFINE_string("a", None, "bisect: the workdir of a run")
    flags.DEFINE_string("b", None, "bisect: the workdir of another")
    flags.DEFINE_string("json", None, "bisect: F.json to write what was found to")
    for name in ("compile_cache", "code_path", "code"):
        flags.declare_key_flag(name)


def main(action: str) -> int | None:
    """Plan, run, look at, report or prove a sweep, as the action says."""
    for other, names in OF_ACTION.items():
        if other != action:
            cli.refuse(names, f"applies only to {other}")
    if action == "bisect":
        return _bisect()
    cli.require("sweep", "name a sweep file, say configs/sweeps/seeds.py")
    cli.require("workdir", "name the folder that the sweep should live in")
    cli.use_code_path()
    from ddpm_jax.commands.sweep import sweep

    f = flags.FLAGS
    words = [f"--code_path={path}" for path in f.code_path]
    words += [f"--compile_cache={f.compile_cache}"] if f.compile_cache else []
    request = sweep.Request(
        sweep=f.sweep,
        workdir=Path(f.workdir),
        jobs=f.jobs,
        attempts=f.attempts,
        words=tuple(words),
        launcher=f.launcher,
        dry_run=f.dry_run,
        baseline=f.baseline,
        allow=tuple(f.allow),
        kills=f.kills,
        kill_seed=f.kill_seed,
        node_loss=f.node_loss,
        measure=f.measure,
        vectorize=f.vectorize,
        group=f.group,
    )
    return sweep.ACTIONS[action](request)


def _bisect() -> int:
    """Name the first step and tensor in which two runs differ; exit code 1 if they do."""
    f = flags.FLAGS
    cli.require("a", "name the workdir of one run, and --b of the other")
    cli.require("b", "name the workdir of the other run")
    cli.start_jax()
    from ddpm_jax.commands.sweep import bisect, bisect_table
    from ddpm_jax.runtime import files

    found = bisect.bisect(f.a, f.b, sys.stderr, code=f.code)
    if f.json:
        files.must_write_json(f.json, found)
    print(bisect_table.table(found))
    return 0 if found["verdict"] == "equal" else 1

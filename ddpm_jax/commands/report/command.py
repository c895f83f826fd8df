"""Write a report of a run, or of several side by side, as one HTML file that loads nothing else.

  python scripts/report.py --workdir=runs/digits
  python scripts/report.py --workdir=runs/digits --workdir=runs/digits_lattice --out=both.html

It shows what was run, the curves of training, the loss by t, the schedule, samples through
training, the way from noise to image, what scripts/evaluate.py measured, and where the configs of
several runs differ. What is missing is said there. Open it in any browser; it needs no network.
"""

from absl import flags

from ddpm_jax import cli


def define() -> None:
    """Define the command's flags."""
    flags.DEFINE_multi_string("workdir", [], "the run to report on; once for each, at most 8")
    flags.DEFINE_string("out", None, "F.html; by default report.html in the first --workdir")
    flags.DEFINE_bool(
        "draw", True, "draw with the newest checkpoint: the film strip and the loss by t (--nodraw)"
    )
    flags.DEFINE_string("data_dir", None, "where the runs' data lie now, if they were moved")
    for name in ("compile_cache", "code", "code_path"):
        flags.declare_key_flag(name)


def main() -> None:
    """Write the report that the flags ask for."""
    cli.require("workdir", "name the run to report on, or several of them")
    cli.start_jax()
    from ddpm_jax.commands.report import report

    f = flags.FLAGS
    target = report.report(f.workdir, f.out, draw=f.draw, data_dir=f.data_dir, code=f.code)
    print(f"report of {len(f.workdir)} run(s) in {target}")

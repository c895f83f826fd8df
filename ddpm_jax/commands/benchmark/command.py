"""Measure speed and memory on this machine, quiet or the figures mean nothing.

  python scripts/benchmark.py --out=benchmark.json

loop_over_step: time of a step inside the training loop over the bare compiled step (1 is no cost).
reading: images/s of the data pipeline alone by number of threads, of the experiment's data, of a
folder of 256-pixel JPEGs, and of the same as array_record. forecasts: actual over forecast, of a
short run's time and of the memory of training. group_of_runs: 8 steps of 8 runs in turn over one
step of all of them in one program (above 1 where that is faster), of the experiment's network and
of a small transformer. strict: a step with config.mesh.strict over the plain one, on one device and
on all that there are (JAX_NUM_CPU_DEVICES=8 makes eight of CPUs).
one_step_run_cold / warm: seconds of a whole process that trains one step, from an empty and from a
filled compile cache. peak_host_memory: MB of a short run. ddim_beside_diffusers: 50 steps of one
U-Net by diffusers' loop over ours (needs the extra [parity]). feature_statistics: 50,000 features
of 2048 dimensions, streamed. prdc: of 10,000 samples and 10,000 references in 64 dimensions. The
rest are seconds and images/s.

--memory instead traces what a training step keeps, with and without config.model.remat and
config.mesh.fsdp, of the experiment's network and of DiT-B/2. It runs nothing: any machine will do.
"""

import json
from pathlib import Path

from absl import flags

from ddpm_jax import cli, config_words
from ddpm_jax.errors import UserError

# Where the package lies in its repository; an installed one has no configs beside it.
DIGITS = Path(__file__).parents[3] / "configs" / "digits.py"


def define() -> None:
    """Define the command's flags."""
    usual = str(DIGITS) if DIGITS.exists() else None
    flags.DEFINE_string("config_file", usual, "the experiment to measure")
    flags.DEFINE_string("out", None, "the JSON file to write")
    flags.DEFINE_bool("memory", False, "only what a step keeps in memory, traced")
    for name in ("compile_cache", "code_path"):
        flags.declare_key_flag(name)


def main() -> None:
    """Measure, print the figures and write them to --out."""
    f = flags.FLAGS
    cli.require("out", "name the JSON file to write")
    cli.require("config_file", "name the config file of what to measure")
    out = Path(f.out)
    try:
        with out.open("a"):  # now, not after minutes of measuring
            pass
    except OSError as error:
        raise UserError(f"--out={out}: cannot write there ({error.strerror})") from error
    cli.start_jax()
    from ddpm_jax.commands.benchmark import benchmark, memory

    config = config_words.load_config_file(f.config_file)
    figures = memory.memory(config) if f.memory else benchmark.benchmark(config, f.config_file)
    report = json.dumps(figures, indent=2)
    out.write_text(report + "\n", encoding="utf-8")
    print(report)

"""Measure speed and memory on this machine, quiet or the figures mean nothing.

  python scripts/benchmark.py --out=benchmark.json

loop_over_step: time of a step inside the training loop over the bare compiled step (1 is no cost).
one_step_run_cold / warm: seconds of a whole process that trains one step, from an empty and from a
filled compile cache. peak_host_memory: MB of a short run. ddim_beside_diffusers: 50 steps of one
U-Net by diffusers' loop over ours (needs the extra [parity]). feature_statistics: 50,000 features
of 2048 dimensions, streamed. prdc: of 10,000 samples and 10,000 references in 64 dimensions. The
rest are seconds and images/s.
"""

import json
from pathlib import Path

from absl import flags

from ddpm_jax import cli
from ddpm_jax.errors import UserError

_CONFIG = flags.DEFINE_string(
    "config_file",
    str(Path(__file__).parents[1] / "configs" / "digits.py"),
    "the experiment to measure",
)
_OUT = flags.DEFINE_string("out", None, "the JSON file to write")
flags.declare_key_flag("compile_cache")


def main() -> None:
    if not _OUT.value:
        raise UserError("--out is missing: name the JSON file to write")
    try:
        Path(_OUT.value).touch()  # now, not after minutes of measuring
    except OSError as error:
        raise UserError(f"--out={_OUT.value}: cannot write there ({error.strerror})") from error
    cli.use_compile_cache()
    from ddpm_jax.commands.benchmark import benchmark

    config = cli.load_config_file(_CONFIG.value)
    script = Path(__file__).with_name("train.py")
    report = json.dumps(benchmark.benchmark(config, script, _CONFIG.value), indent=2)
    Path(_OUT.value).write_text(report + "\n", encoding="utf-8")
    print(report)


if __name__ == "__main__":
    cli.run(main)

"""What a whole process costs: its start with nothing compiled and with all compiled, its memory."""

import resource
import tempfile
import time

from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.commands.benchmark.processes import python


def section(options: Options) -> dict[str, float]:
    """`startup` of the experiment that was named."""
    return startup(options.config_file)


def startup(config_file: str) -> dict[str, float]:
    """A one-step run from an empty and from a filled compile cache, and a short run's memory."""
    with tempfile.TemporaryDirectory() as folder:

        def train(name: str, *flags: str) -> float:
            places = [f"--workdir={folder}/{name}", f"--compile_cache={folder}/cache"]
            began = time.perf_counter()
            python("-m", "ddpm_jax", "train", f"--config={config_file}", *places, *flags)
            return time.perf_counter() - began

        one_step = [
            "--config.train.num_steps=1",
            "--config.optim.decay=constant",
            "--config.train.sample_every=0",
            "--config.train.validate_every=0",
        ]
        cold, warm = train("cold", *one_step), train("warm", *one_step)
        train("short", "--config.train.num_steps=150", "--config.train.checkpoint_every=50")
        # Linux counts in kilobytes; the largest of the children.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"one_step_run_cold": cold, "one_step_run_warm": warm, "peak_host_memory": peak}

"""The table of what a benchmark measures: a name, and the function that does."""

from collections.abc import Callable, Mapping
from typing import Any

from ddpm_jax.commands.benchmark import (
    checkpoint_speed,
    clip_steps,
    deterministic,
    forecasts,
    groups,
    guided_sampling,
    latent_unet,
    loading,
    loop_overhead,
    measuring_speed,
    memory,
    reading,
    sampling_speed,
    scaling,
    startup,
    strict,
    train_steps,
)
from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.experiment import build

# In the order in which they are measured. What a section gives is JSON.
SECTIONS: Mapping[str, Callable[[Options], dict[str, Any]]] = {
    "train_step": train_steps.train_steps,
    "clip": clip_steps.section,
    "sampling": sampling_speed.sampling,
    "guided_sampling": guided_sampling.section,
    "latent_unet": latent_unet.section,
    "loop": loop_overhead.section,
    "input": lambda options: reading.reading_speed(build(options.config)),
    "startup": startup.section,
    "checkpoint": checkpoint_speed.section,
    "loading": loading.section,
    "scaling": scaling.scaling,
    "memory": memory.section,
    "forecast": lambda options: forecasts.forecasts(options.config_file),
    "group": lambda options: groups.group_speed(options.config),
    "strict": lambda options: strict.strict_cost(options.config),
    "deterministic": deterministic.deterministic,
    "feature_statistics": measuring_speed.feature_statistics,
    "prdc": measuring_speed.prdc,
}
# Left out by --quick, unless --only names them: each trains whole runs, times many turns, or takes
# gigabytes.
SLOW = ("latent_unet", "input", "loading", "forecast", "group", "feature_statistics", "prdc")

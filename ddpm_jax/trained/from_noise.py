"""A trained model that makes an image of noise in one pass."""

from typing import Any

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.trained import program
from ddpm_jax.trained.loaded import Loaded
from ddpm_jax.trained.tasks import Task


class LoadedFromNoise(Loaded):
    """A trained generator: `load(workdir).sample(16)`, with labels, a seed and a temperature."""

    def _with(self, options: dict[str, Any], task: Task) -> Experiment:
        return program.sampled_with(self.experiment, options) if options else self.experiment

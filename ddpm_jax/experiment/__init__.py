"""From a config to the parts of an experiment, and from a workdir to a trained model."""

from ddpm_jax.experiment.built import Experiment, build
from ddpm_jax.experiment.cascade import Cascade
from ddpm_jax.experiment.trained import Drawing, Loaded, described, load, padded_batch
from ddpm_jax.parts.tasks import Task

__all__ = [
    "Cascade",
    "Drawing",
    "Experiment",
    "Loaded",
    "Task",
    "build",
    "described",
    "load",
    "padded_batch",
]

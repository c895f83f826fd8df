"""From a config to an experiment, its training, and from a workdir to a trained model."""

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.experiment.group import train_group
from ddpm_jax.experiment.running import train
from ddpm_jax.trained.cascade import Cascade
from ddpm_jax.trained.descriptions import described
from ddpm_jax.trained.drawing import Drawing, padded_batch
from ddpm_jax.trained.load import load
from ddpm_jax.trained.loaded import Loaded
from ddpm_jax.trained.program import build, imported_parts
from ddpm_jax.trained.tasks import Task
from ddpm_jax.trained.unclip import EmbeddingOf

__all__ = [
    "Cascade",
    "Drawing",
    "EmbeddingOf",
    "Experiment",
    "Loaded",
    "Task",
    "build",
    "described",
    "imported_parts",
    "load",
    "padded_batch",
    "train",
    "train_group",
]

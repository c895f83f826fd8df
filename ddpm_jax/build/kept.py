"""What a run keeps beside its checkpoints: its tokenizer, and networks of others."""

from pathlib import Path

from ddpm_jax.build import clips, coding, latents, perceptual
from ddpm_jax.build.experiment import Experiment

# What a config names, of the trees that a run has frozen.
TREES = (*clips.TREES, latents.TREE, perceptual.LOOKS)


def keep(experiment: Experiment, workdir: str | Path) -> None:
    """Write what a run keeps, where it is not there already.

    Raises:
      UserError: where it cannot be written.
    """
    clips.keep(experiment, workdir)
    latents.keep(experiment, workdir)
    perceptual.keep(experiment, workdir)


def with_kept(experiment: Experiment, workdir: str | Path) -> Experiment:
    """The experiment with what its run keeps.

    Raises:
      UserError: where any of it is gone or damaged.
    """
    experiment = perceptual.with_kept(clips.with_kept(experiment, workdir), workdir)
    if not coding.has_latents(experiment.config):
        return experiment
    return latents.with_kept(experiment, workdir)

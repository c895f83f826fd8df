"""config.objective.perceptual: the weights by which an autoencoder is told how images look."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.build import autoencoding
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.build.kept_trees import Keeping
from ddpm_jax.config.checks import image_shape
from ddpm_jax.errors import UserError
from ddpm_jax.interop.perceptual import perceptual_from_file
from ddpm_jax.models.perceptual import lpips
from ddpm_jax.runtime import digests
from ddpm_jax.training.objectives.autoencode import LOOKS

KEEPING = Keeping("perceptual.json", "the weights of LPIPS")


def with_made(experiment: Experiment) -> Experiment:
    """The experiment with the weights that its config names, where it names some.

    Raises:
      UserError: for a file that cannot be read, or images that are too small for its trunk.
    """
    if not autoencoding.has_looks(experiment.config):
        return experiment
    named = experiment.config.objective.perceptual
    try:
        tree = digests.on_host(perceptual_from_file(named))
        images = jax.ShapeDtypeStruct((1, *image_shape(experiment.config)), jnp.float32)
        jax.eval_shape(lpips, tree, images, images)
    except ValueError as error:
        raise UserError(f"config.objective.perceptual={named}: {error}") from error
    return _with(experiment, tree)


def keep(experiment: Experiment, workdir: str | Path) -> None:
    """Write the weights into a run's workdir, where they are not there already.

    Raises:
      UserError: where they cannot be written.
    """
    if LOOKS in experiment.frozen:
        KEEPING.keep(workdir, {LOOKS: experiment.frozen[LOOKS]}, {})


def with_kept(experiment: Experiment, workdir: str | Path) -> Experiment:
    """The experiment with the weights that its run keeps.

    Raises:
      UserError: where they are gone or damaged.
    """
    if not autoencoding.has_looks(experiment.config):
        return experiment
    return _with(experiment, KEEPING.taken(workdir, lambda content, trees: trees[LOOKS]))


def _with(experiment: Experiment, tree: Any) -> Experiment:
    return dataclasses.replace(experiment, frozen={**experiment.frozen, LOOKS: tree})

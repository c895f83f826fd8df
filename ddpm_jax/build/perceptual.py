"""config.objective.perceptual: the weights by which an autoencoder is told how images look."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.build import autoencoding, kept_trees
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.config import config_files
from ddpm_jax.config.checks import image_shape
from ddpm_jax.errors import UserError
from ddpm_jax.interop.perceptual import perceptual_from_file
from ddpm_jax.models.perceptual import lpips
from ddpm_jax.runtime import digests, files
from ddpm_jax.training.objectives.autoencode import LOOKS

CONFIG_FILE = "perceptual.json"
LIMIT = 2**16  # bytes of it


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
    if not autoencoding.has_looks(experiment.config) or LOOKS not in experiment.frozen:
        return
    folder, tree = Path(workdir), experiment.frozen[LOOKS]
    sha256 = digests.digest(tree)
    try:
        if digests.digest(kept_trees.read(folder, LOOKS)) == sha256:
            return
    except (OSError, ValueError, UserError):
        pass
    kept_trees.write(folder, {LOOKS: tree}, "the weights of LPIPS")
    files.must_write_json(folder / CONFIG_FILE, {"sha256": sha256})


def with_kept(experiment: Experiment, workdir: str | Path) -> Experiment:
    """The experiment with the weights that its run keeps.

    Raises:
      UserError: where they are gone or damaged.
    """
    if not autoencoding.has_looks(experiment.config):
        return experiment
    folder = Path(workdir)
    try:
        sha256 = files.read_json(folder / CONFIG_FILE, LIMIT)["sha256"]
        tree = kept_trees.read(folder, LOOKS)
    except (UserError, *config_files.BROKEN) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise UserError(
            f"{workdir}: the weights of LPIPS that this run keeps cannot be read ({reason}): put "
            f"{CONFIG_FILE} and {LOOKS}.safetensors back"
        ) from error
    if digests.digest(tree) != sha256:
        raise kept_trees.other(folder, LOOKS)
    return _with(experiment, tree)


def _with(experiment: Experiment, tree: Any) -> Experiment:
    return dataclasses.replace(experiment, frozen={**experiment.frozen, LOOKS: tree})

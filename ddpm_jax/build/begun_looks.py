"""How images look to an autoencoder of a run that begins: read where its config names it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.build import autoencoding, coding, frozen, perceptual, weights_fit
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.config import config_files
from ddpm_jax.config.checks import image_shape
from ddpm_jax.errors import UserError
from ddpm_jax.interop.perceptual import perceptual_from_file
from ddpm_jax.models.perceptual import ClassifierFeatures, distance
from ddpm_jax.runtime import digests

PLACE = "classifier"  # of the kind of run whose features it may be


def with_made(experiment: Experiment) -> Experiment:
    """The experiment with the weights that its config names, where it names some.

    Raises:
      UserError: for a file that cannot be read, a run that is no classifier of such images, or
        images that are too small.
    """
    c = experiment.config
    if not autoencoding.has_looks(c):
        return experiment
    named = c.objective.perceptual
    try:
        if Path(named).is_dir():
            tree: Any = of_run(c)
        else:
            tree = digests.on_host(perceptual_from_file(named))
        weights_fit.check_finite(
            f"config.objective.perceptual={named}", getattr(tree, "params", tree)
        )
        images = jax.ShapeDtypeStruct((1, *image_shape(c)), jnp.float32)
        jax.eval_shape(distance, tree, images, images)
    except ValueError as error:
        raise UserError(f"config.objective.perceptual={named}: {error}") from error
    return perceptual.with_looks(experiment, tree)


def of_run(c: ConfigDict) -> ClassifierFeatures:
    """The classifier whose workdir the config names, with its moving average.

    Raises:
      UserError: for a folder without a run, or a run that cannot be read.
      ValueError: for one that is no classifier of such images.
    """
    named = c.objective.perceptual
    if config_files.read(named) is None:
        raise ValueError("no run lies there; name a classifier's workdir, or a file of LPIPS")
    other = frozen.read(named)
    its = other.experiment
    if its.kind.place != PLACE:
        raise ValueError(
            f"that run is {its.kind.one}; name the workdir of a classifier, as "
            "configs/digits_classifier.py trains one"
        )
    if coding.has_latents(its.config):
        raise ValueError("that classifier sees latents, and here images are compared")
    if image_shape(its.config) != image_shape(c):
        raise ValueError(
            f"that classifier sees images of {image_shape(its.config)}, and these are "
            f"{image_shape(c)}"
        )
    try:
        network = perceptual.network_of(perceptual.fields_of(its.model))
    except AttributeError as error:
        raise ValueError("that classifier's network is one of the user's own") from error
    schedule = its.schedule_of(other.params)
    time = float(schedule.network_time(jnp.zeros((), jnp.float32)))
    params = digests.on_host(other.params)
    return ClassifierFeatures(params, network, time)

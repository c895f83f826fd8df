"""The autoencoder of a run that begins: read, and the scale of its latents measured."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.build import autoencoding, coding, frozen, latents, weights_fit
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.codecs import Codec
from ddpm_jax.config import config_files
from ddpm_jax.config.checks import image_shape
from ddpm_jax.diffusion import latent_codes
from ddpm_jax.diffusion.latent_codes import Scaling
from ddpm_jax.errors import UserError
from ddpm_jax.interop.autoencoder import autoencoder_from_diffusers
from ddpm_jax.models.autoencoder import Autoencoder
from ddpm_jax.runtime import digests, files

ONE = Scaling(np.float32(1), np.float32(0))
SCALED_BY = 2048  # training images at most, by which the scale of latents is measured


def of_config(c: ConfigDict) -> tuple[Autoencoder, Any, Scaling | None]:
    """The network and parameters that config.data.codec names, and its scale where it has one.

    Raises:
      UserError: for a path where there is none, or a run of another kind.
    """
    named = c.data.codec
    if not _is_of_diffusers(Path(named)) and config_files.read(named) is not None:
        other = frozen.read(named)
        if not isinstance(other.experiment.model, Autoencoder):
            raise UserError(
                f"config.data.codec={named}: that run is {other.experiment.kind.one}; name the "
                "workdir of an autoencoder, as configs/shapes_autoencoder.py trains one"
            )
        if classes := other.experiment.config.model.num_classes:
            raise UserError(
                f"config.data.codec={named}: its decoder is told one of {classes} classes, which "
                "latents alone do not say; train one with config.model.num_classes=0"
            )
        its = image_shape(other.experiment.config)
        if its != image_shape(c):
            raise UserError(
                f"config.data.image_size={tuple(c.data.image_size)}, channels={c.data.channels}: "
                f"the autoencoder of config.data.codec={named} has images of {its}"
            )
        params = {k: v for k, v in other.params.items() if k != autoencoding.DISCRIMINATOR}
        return latents.network_of(latents.fields_of(other.experiment.model)), params, None
    try:
        loaded = autoencoder_from_diffusers(named)
    except ValueError as error:
        raise UserError(
            f"config.data.codec={named}: neither a workdir of a run nor a folder of diffusers "
            f"({error})"
        ) from error
    if loaded.autoencoder.channels != c.data.channels:
        raise UserError(
            f"config.data.channels={c.data.channels}: the autoencoder of config.data.codec={named} "
            f"has images of {loaded.autoencoder.channels}"
        )
    scaling = Scaling(np.float32(loaded.scaling_factor), np.float32(loaded.shift_factor))
    return loaded.autoencoder, loaded.params, scaling


def made(experiment: Experiment, train: data.Source | None) -> latents.FrozenCodec:
    """The autoencoder of a run that begins, with the scale at which its latents have unit variance.

    Published weights come with their scale. Another's is 1 over the deviation of the latents of
    evenly spaced training images, all of their numbers together (Rombach et al. 2022, appendix G).

    Args:
      experiment: whose config names it.
      train: its training split; None for a scale of 1, for what is traced and not trained.

    Raises:
      UserError: as `of_config`, and for sizes that do not fit.
    """
    network, params, scaling = of_config(experiment.config)
    host = digests.on_host(params)
    weights_fit.check_finite(f"config.data.codec={experiment.config.data.codec}", host)
    found = latents.of_network(experiment, network, host, scaling or ONE)
    if scaling is None and train is not None:
        try:
            one = unit_scaling(found, train, coding.scaled(experiment.config, experiment.own))
        except ValueError as error:
            raise UserError(f"config.data.codec={experiment.config.data.codec}: {error}") from error
        found = latents.of_network(experiment, network, found.tree[latents.PARAMS], one)
    return found


def unit_scaling(found: latents.FrozenCodec, train: data.Source, pixels: Codec) -> Scaling:
    """The scale at which latents have unit variance: 1 over their deviation, as of `made`.

    Args:
      found: the autoencoder, with a scale of 1.
      train: of whose evenly spaced images the latents are.
      pixels: between images and what the autoencoder sees.

    Raises:
      ValueError: for latents that are all alike.
    """
    batches = data.evaluation_batches(
        train, latents.BATCH_SIZE, SCALED_BY, encode=pixels.encode_batch, num_threads=0
    )
    parts = [found.moments(batch["x0"])[batch["mask"]] for batch in batches]
    std = latent_codes.deviation(np.concatenate(parts))
    if not std > 0:
        raise ValueError(
            "the latents of all training images are alike; train that autoencoder for longer"
        )
    return ONE._replace(scale=1 / std)


def _is_of_diffusers(folder: Path) -> bool:
    """Whether a folder's config.json is diffusers', which name the class."""
    try:
        return "_class_name" in files.read_json(folder / "config.json")
    except config_files.BROKEN:
        return False

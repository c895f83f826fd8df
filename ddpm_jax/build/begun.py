"""What a run begins with beside its parameters: a tokenizer, other networks, what its data make."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from ddpm_jax import data
from ddpm_jax.build import (
    autoencoding,
    begun_latents,
    begun_looks,
    clips,
    coding,
    frozen,
    latents,
    texts,
)
from ddpm_jax.build.clips import FrozenClip
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.config import config_files
from ddpm_jax.diffusion import components, unclip
from ddpm_jax.diffusion.components import Components
from ddpm_jax.errors import UserError

BATCH_SIZE = 256


def with_made(experiment: Experiment, train: data.Source) -> Experiment:
    """The experiment with what a run of it begins with, a function of config and training data.

    Args:
      experiment: as built.
      train: its training split.

    Raises:
      UserError: for a CLIP that cannot be read or does not fit, or data that are too few; as
        `texts.made`.
    """
    c = experiment.config
    if coding.has_latents(c):
        found = begun_latents.made(experiment, train)
        return texts.with_made(latents.with_codec(experiment, found), train)
    if not experiment.kind.has_clip(c):
        return texts.with_made(begun_looks.with_made(experiment), train)
    return _with_clip(experiment, lambda clip: fit_components(experiment, clip, train))


def has_others(experiment: Experiment) -> bool:
    """Whether a run begins with the networks of others."""
    c = experiment.config
    return experiment.kind.has_clip(c) or coding.has_latents(c) or autoencoding.has_looks(c)


def without_data(experiment: Experiment) -> Experiment:
    """The same of a run with networks of others, without its data: to trace, not to train.

    Raises:
      UserError: as `with_made`.
    """
    if coding.has_latents(experiment.config):
        return latents.with_codec(experiment, begun_latents.made(experiment, None))
    if autoencoding.has_looks(experiment.config):
        return begun_looks.with_made(experiment)
    m = experiment.config.model

    def blank(clip: FrozenClip) -> Components:
        shapes = [(m.embed_dim,), (m.num_components, m.embed_dim)]
        shapes += [(m.num_components, m.num_values - 1), (m.num_components, m.num_values)]
        return Components(*(np.zeros(shape, np.float32) for shape in shapes))

    return _with_clip(experiment, blank)


def _with_clip(experiment: Experiment, fit: Callable[[FrozenClip], Components]) -> Experiment:
    workdir = experiment.config.data.clip
    if config_files.read(workdir) is None:
        raise UserError(
            f"config.data.clip={workdir}: no run lies there; train a CLIP there first, as "
            "configs/shapes_clip.py does, or name another workdir"
        )
    other = frozen.read(workdir)
    clip = clips.of_run(experiment, other.experiment, other.params)
    fits = experiment.kind.fits_components(experiment.config)
    return clips.with_clip(experiment, clip, fit(clip) if fits else None)


def fit_components(experiment: Experiment, clip: FrozenClip, train: data.Source) -> Components:
    """The components of evenly spaced training images' standardised embeddings.

    Raises:
      UserError: for fewer images than bins.
    """
    m = experiment.config.model
    batches = data.evaluation_batches(
        train,
        BATCH_SIZE,
        m.components_from,
        encode=experiment.batch_codec.encode_batch,
        num_threads=0,
    )
    embedded = np.concatenate([clip.embed_encoded(batch["x0"])[batch["mask"]] for batch in batches])
    vectors = np.asarray(unclip.standardised(jnp.asarray(embedded)))
    try:
        return components.fit(vectors, m.num_components, m.num_values)
    except ValueError as error:
        raise UserError(
            f"config.model.num_components={m.num_components}, num_values={m.num_values}: {error}"
        ) from error

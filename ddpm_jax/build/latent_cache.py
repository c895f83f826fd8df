"""config.data.cache_latents: latents of all images made once, and not in each step."""

from collections.abc import Sequence

import jax
import numpy as np

from ddpm_jax import data
from ddpm_jax.build import conditioning
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.data import Source
from ddpm_jax.data.base import Tolerant
from ddpm_jax.data.captions import Captioned
from ddpm_jax.data.latent_source import cached
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import digests, user_cache

MOST_EXAMPLES = 2**24  # whose latents are kept
FIELD = "config.data.cache_latents=True"


def asked(experiment: Experiment) -> bool:
    """Whether a run reads latents that were made beforehand."""
    return bool(experiment.config.data.get("cache_latents", False))


def check(experiment: Experiment) -> None:
    """Raises UserError for images that are moved after they were read, or that are conditions."""
    c = experiment.config
    if asked(experiment) and (images := [*conditioning.images(c, experiment.own)]):
        raise UserError(
            f"config.model.conditions={tuple(c.model.conditions)}: {images[0]} is an image, and "
            f"{FIELD} keeps latents and values alone; set False"
        )
    if asked(experiment) and c.data.augment:
        raise UserError(
            f"config.data.augment={tuple(c.data.augment)}: an image that is moved in the step has "
            f"other latents than were kept ({FIELD}); set (), or data.flip, of which both are kept"
        )


def check_alone(experiment: Experiment, what: str) -> None:
    """Raises UserError for a run whose steps are made again where nothing is cached."""
    if asked(experiment):
        raise UserError(
            f"{what}: this run's steps read latents that were made beforehand ({FIELD}), and steps "
            "that are made again encode images, whose last digits may differ"
        )


def check_sources(experiment: Experiment, sources: Sequence[Source | None]) -> None:
    """Raises UserError for data that have too many images, or captions only beside images."""
    for source in sources if asked(experiment) else ():
        if source is None:
            continue
        name = experiment.config.data.name
        if len(source) > MOST_EXAMPLES:
            raise UserError(
                f"{FIELD}: {name} has {len(source):,} images, and the latents of at most "
                f"{MOST_EXAMPLES:,} are kept; set False"
            )
        reader = source.reader if isinstance(source, Tolerant) else source
        if experiment.reads_text and not isinstance(reader, Captioned):
            raise UserError(
                f"{FIELD}: {name} tells the caption of an image only with the image, which would "
                "be read all the same; set False"
            )


def sources(experiment: Experiment, of_pixels: Sequence[Source | None]) -> list[Source | None]:
    """Sources of latents in place of those of images, where a run asks for them.

    They lie in the user's cache under a digest of the data and the encoder. Every process calls
    this.

    Args:
      experiment: with its autoencoder.
      of_pixels: of training, and held-out ones.

    Raises:
      UserError: where a file of the cache cannot be written.
    """
    if not asked(experiment):
        return [*of_pixels]
    c, found = experiment.config, experiment.latents
    pixels = experiment.batch_codec

    def of(source: Source, flip: bool) -> Source:
        def make(images: np.ndarray) -> np.ndarray:
            latents: np.ndarray = found.moments(pixels.encode(images, source.info.levels))
            return latents

        described = {
            "data": data.fingerprint(source),
            "codec": found.digest,
            "network": repr(found.network),
            "jax": jax.__version__,
            "code": digests.of_code("codecs", "diffusion", "models"),
        }
        directory = user_cache.cache_dir() / "latents"
        return cached(
            source,
            make,
            described,
            directory,
            flip=flip,
            conditions=conditioning.of_data(c),
        )

    # Held-out images are never mirrored.
    flips = [c.data.flip, *[False] * (len(of_pixels) - 1)]
    return [source and of(source, flip) for source, flip in zip(of_pixels, flips, strict=True)]

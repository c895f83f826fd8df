"""The extractors of features, one entry each."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.config import own_code
from ddpm_jax.data import Source, evenly_spaced
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import classifier, features, inception
from ddpm_jax.evaluation.features import Extractor
from ddpm_jax.interop.inception import HOW_TO_GET, inception_from_file
from ddpm_jax.measures import images_of, own_parts

AUTO = "auto"  # the one that fits the data, `Dataset.extractor`
PCA_COMPONENTS = 64
# What components are fitted to: 10,000 images of CIFAR's size, fewer of larger ones.
PCA_IMAGES = range(1_000, 10_001)
PCA_VALUES = 2**25


class Inputs(NamedTuple):
    """What an extractor is made of.

    Attributes:
      train, held_out: the data, of which held-out images may be missing.
      weights, resize: of inception; None where they are not named.
      cache: a folder.
    """

    train: Source
    held_out: Source | None
    weights: str | None
    resize: str | None
    cache: Path


def _classifier(inputs: Inputs) -> Extractor:
    if inputs.held_out is None:
        raise ValueError(
            "it is tried on held-out images, and this run's data has none: take pca, pixels or "
            "inception"
        )
    trained = classifier.load_or_train(inputs.cache, inputs.train, inputs.held_out)
    shown = ", ".join(f"{head} {share:.3f}" for head, share in trained.accuracy.items())
    print(f"features of a classifier whose held-out accuracy is {shown}", file=sys.stderr)
    return classifier.extractor(trained, images_of.eight_bit_info(inputs.train.info))


def _inception(inputs: Inputs) -> Extractor:
    if inputs.weights is None:
        raise ValueError(
            f"needs --inception_weights=F.safetensors: {HOW_TO_GET}; or choose another extractor"
        )
    params, digest = inception_from_file(inputs.weights)
    resize = inputs.resize or "bicubic"
    normalisation = "torch" if resize == "bilinear_torch" else "tensorflow"
    return inception.extractor(params, digest, resize=resize, normalisation=normalisation)


def _pca(inputs: Inputs) -> Extractor:
    fitting = PCA_VALUES // int(np.prod(inputs.train.info.image_shape))
    num = min(max(fitting, PCA_IMAGES[0]), PCA_IMAGES[-1])
    images = images_of.eight_bit(inputs.train, evenly_spaced(inputs.train, num))
    return features.pca(images, PCA_COMPONENTS, or_fewer=True)


def _pixels(inputs: Inputs) -> Extractor:
    return features.pixels(inputs.train.info.image_shape)


EXTRACTORS: dict[str, Callable[[Inputs], Extractor]] = {
    "classifier": _classifier,
    "inception": _inception,
    "pca": _pca,
    "pixels": _pixels,
}
# Flags that one of them alone reads.
FLAGS: Mapping[str, str] = {"inception_weights": "inception", "resize": "inception"}


def build(name: str, inputs: Inputs) -> Extractor:
    """The extractor of a name: a key of EXTRACTORS, or a user's own "package.module:name".

    Raises:
      UserError: for an unknown name, or missing or wrong weights, or data that it does not fit.
    """
    if own_code.is_own(name):
        return own_parts.extractor(name)
    if name not in EXTRACTORS:
        raise UserError(
            f"--extractor={name}: is unknown: choose among {', '.join((AUTO, *EXTRACTORS))}, or "
            "your own as package.module:name"
        )
    try:
        return EXTRACTORS[name](inputs)
    except ValueError as error:
        raise UserError(f"--extractor={name}: {error}") from error
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"--extractor={name}: cannot keep it in {inputs.cache} ({reason})"
        ) from error

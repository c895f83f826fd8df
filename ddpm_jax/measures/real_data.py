"""The data of a finished run, as its measures read them: both splits, or what there is of them."""

from typing import Any

import numpy as np

from ddpm_jax.codecs import Codec
from ddpm_jax.data import Source, evenly_spaced, fingerprint
from ddpm_jax.errors import EmptySplit, UserError
from ddpm_jax.measures.drawer import Described, Drawer

SPLITS = ("train", "validation")
MOST_IMAGES = 100_000  # of the real data; drawn shapes have no end


def split(experiment: Described, name: str) -> Source | None:
    """A split of a run's data; None for held-out images where there are none."""
    try:
        return experiment.source(name)
    except EmptySplit:
        if name == "train":
            raise
        return None


def source(loaded: Drawer, name: str) -> Source | None:
    """As `split`, of a trained model.

    Raises:
      UserError: for data that are not where they were: --data_dir names another place.
    """
    try:
        return split(loaded.experiment, name)
    except UserError as error:
        # A finished run's config stays as it was trained: what may change is a flag's.
        line = str(error).replace("data.data_dir", "--data_dir")
        if line == str(error):
            line += "; --data_dir=FOLDER names where the data lie now, if they were moved"
        raise UserError(line) from error


def train(loaded: Drawer) -> Source:
    """The images that a model was trained on. Raises UserError as `source`."""
    images = source(loaded, "train")
    assert images is not None  # without images nothing was trained
    return images


def sources(loaded: Drawer) -> dict[str, Source | None]:
    """Both splits, as `source` gives them."""
    return {name: source(loaded, name) for name in SPLITS}


def held_out(loaded: Drawer, metric: str) -> Source:
    """The held-out images, which `metric` is of. Raises UserError where there are none."""
    images = source(loaded, "validation")
    if images is None:
        raise UserError(
            f"--metrics={metric} needs held-out images, and this run's data has none: train with "
            "data.options.holdout above 0"
        )
    return images


def described(loaded: Drawer) -> dict[str, Any]:
    """The real images that metrics of samples or classifiers look at, for the protocol."""
    return {
        name: {"num": min(len(one), MOST_IMAGES), "fingerprint": fingerprint(one)}
        for name, one in sources(loaded).items()
        if one is not None
    }


def arrays(source: Source, codec: Codec) -> tuple[np.ndarray, np.ndarray]:
    """x_0 and labels of a source's images; of very many as many as are compared."""
    examples = [source[k] for k in evenly_spaced(source, MOST_IMAGES)]
    images = np.stack([example["image"] for example in examples])
    labels = np.array([example["label"] for example in examples])
    return codec.encode(images, source.info.levels), labels

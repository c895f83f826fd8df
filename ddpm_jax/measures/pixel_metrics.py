"""Measures of samples as images, beside the real ones, for `evaluate`."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.data import Source, evenly_spaced
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import fidelity, intervals, neighbours
from ddpm_jax.evaluation.neighbours import Copies
from ddpm_jax.measures import feature_space, results
from ddpm_jax.measures.results import Figure
from ddpm_jax.reporting import figures
from ddpm_jax.runtime.shards import Room

MOST_IMAGES = 100_000  # of the real data; drawn shapes have no end
READ = 256  # images at a time
MEMORISATION = "memorisation"
PAIRS = 32  # samples that are drawn with their nearest training images
PAIR_COLUMNS = 16


class Images(NamedTuple):
    """Images of 256 levels."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int [N], -1 without classes


class Real(NamedTuple):
    """What samples are judged by."""

    train: Images
    held_out: Images


def _label_accuracy(real: Real, x: Images) -> Figure:
    return results.share(fidelity.label_accuracy(*real.train, *x), len(x.images))


# Name -> (real images, images to judge) -> figure
OF_LABELS: dict[str, Callable[[Real, Images], Figure]] = {
    "label_accuracy": _label_accuracy,
    "spread": lambda real, x: Figure(fidelity.spread_ratio(*real.train, *x)),
    "class_recall": lambda real, x: Figure(fidelity.recall(*real.train, *x)),
}
METRICS = (*OF_LABELS, MEMORISATION)


def measure(
    metric: str, real: Real, images: Images, pairs: Path | None = None
) -> dict[str, Figure]:
    """The figure of one of METRICS, by its name.

    Args:
      metric: which.
      real: what images are judged by.
      images: which are judged.
      pairs: with MEMORISATION, a PNG of the images beside their nearest training images.

    Raises:
      ValueError: for too few images, or real ones that say nothing about them.
    """
    if metric in OF_LABELS:
        return {metric: OF_LABELS[metric](real, images)}
    copies = neighbours.copies(real.train.images, real.held_out.images, images.images)
    if pairs is not None:
        draw_pairs(pairs, real.train, images, copies)
    return {metric: _memorisation(copies)}


def real_images(train: Source, held_out: Source) -> Real:
    """Both splits, in files without a name, to be read as they are needed.

    Raises:
      UserError: where there is no space for them.
    """
    try:
        return Real(_images(train), _images(held_out))
    except OSError as error:
        raise UserError(
            f"no room for the real images in {tempfile.gettempdir()} ({error.strerror or error}); "
            "make some, or name another folder in the environment's TMPDIR"
        ) from error


def draw_pairs(path: Path, train: Images, drawn: Images, copies: Copies) -> None:
    """The samples nearest to the training set by the ratio of distances, above their neighbours."""
    chosen = np.argsort(copies.ratios, kind="stable")[:PAIRS]
    if len(chosen) > PAIR_COLUMNS:  # whole rows
        chosen = chosen[: len(chosen) // PAIR_COLUMNS * PAIR_COLUMNS]
    bands = []
    for start in range(0, len(chosen), PAIR_COLUMNS):
        part = chosen[start : start + PAIR_COLUMNS]
        bands += [*drawn.images[part], *train.images[copies.nearest[part]]]
    path.parent.mkdir(exist_ok=True)
    figures.save_png(path, figures.grid(np.stack(bands), min(PAIR_COLUMNS, len(chosen))))


def _images(source: Source) -> Images:
    """As many as MOST_IMAGES, evenly spaced."""
    rows = evenly_spaced(source, MOST_IMAGES)
    with tempfile.TemporaryFile() as file:
        room, labels = None, []
        for start in range(0, len(rows), READ):
            examples = [source[k] for k in rows[start : start + READ]]
            labels += [int(example["label"]) for example in examples]
            images = feature_space.of_256_levels([e["image"] for e in examples], source.info)
            room = room or Room(file, images)
            room.add(images)
        assert room is not None  # no source is empty
        return Images(room.array(len(rows)), np.array(labels))


def _memorisation(copies: Copies) -> Figure:
    if len(copies.distances) == 1:
        return Figure(copies.memorisation)
    mean = intervals.bootstrap_mean(copies.distances)
    if not mean.value:  # copies, all of them
        return Figure(copies.memorisation)
    scale = copies.memorisation / mean.value
    return Figure(copies.memorisation, mean.low * scale, mean.high * scale, mean.method)

"""Measures of samples as images, beside the real ones, for `evaluate`."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.data import Source, evenly_spaced
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import fidelity, intervals, neighbours
from ddpm_jax.evaluation.neighbours import Copies
from ddpm_jax.measures import images_of, real_data, results
from ddpm_jax.measures.metric import Metric
from ddpm_jax.measures.results import Figure
from ddpm_jax.reporting import figures, plots
from ddpm_jax.runtime.shards import Room

READ = 256  # images at a time
PAIRS = 32  # samples that are drawn with their nearest training images
PAIR_COLUMNS = 16
LOST = 0.1  # of a class's share: with less the class counts as lost


class Images(NamedTuple):
    """Images of 256 levels."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int [N], -1 without classes


class Real(NamedTuple):
    """What samples are judged by."""

    train: Images
    held_out: Images | None  # None where the data has none


class Judged(NamedTuple):
    """Images, and what they are judged by.

    Attributes:
      real: the data's.
      images: those that are judged.
      picture: the PNG that a metric which draws one writes; None for none.
    """

    real: Real
    images: Images
    picture: Path | None = None


def label_accuracy(judged: Judged) -> Figure:
    """The share of images that an SVM trained on the real ones gives their own label."""
    share = fidelity.label_accuracy(*judged.real.train, *judged.images)
    return results.share(share, len(judged.images.images))


def class_histogram(judged: Judged) -> tuple[Figure, Figure]:
    """How far the classes that an SVM reads in images are from those of the training set.

    Half of the sum of the differences of shares (total variation), and how many of the data's
    classes have less than LOST of their share: the modes that a collapse has lost.
    """
    train = judged.real.train
    classes = np.unique(train.labels)
    read = fidelity.classes_read(*train, judged.images.images)
    drawn, real = (fidelity.shares(labels, classes) for labels in (read, train.labels))
    if judged.picture is not None:
        judged.picture.parent.mkdir(exist_ok=True)
        plots.histogram(judged.picture, [str(one) for one in classes], drawn, real)
    apart, lost = np.abs(drawn - real).sum() / 2, (drawn < LOST * real).sum()
    return Figure(float(apart)), Figure(float(lost))


def has_classes(real: Real) -> None:
    """Raises ValueError for real images of which no classes are known."""
    if len(np.unique(real.train.labels)) < 2:
        raise ValueError("this run's data are of fewer than two classes; leave it out")


def spread(judged: Judged) -> Figure:
    """The deviation within a class over the real one, 0 where every class is one image."""
    return Figure(fidelity.spread_ratio(*judged.real.train, *judged.images))


def class_recall(judged: Judged) -> Figure:
    """The share of a class's real images within the manifold of its samples."""
    return Figure(fidelity.recall(*judged.real.train, *judged.images))


def memorisation(judged: Judged) -> Figure:
    """The mean distance to the nearest training image over the held-out images' own."""
    train = judged.real.train
    copies = neighbours.copies(train.images, has_held_out(judged.real).images, judged.images.images)
    if judged.picture is not None:
        draw_pairs(judged.picture, train, judged.images, copies)
    return _memorisation(copies)


def has_held_out(real: Real) -> Images:
    """The held-out images. Raises ValueError where there are none."""
    if real.held_out is None:
        raise ValueError(
            "compares with held-out images, and this run's data has none; train with "
            "data.options.holdout above 0, or leave it out"
        )
    return real.held_out


def check(metrics: Sequence[Metric], real: Real) -> None:
    """Raises UserError for a metric that these real images say nothing about."""
    for metric in metrics:
        try:
            if metric.fits is not None:
                metric.fits(real)
        except ValueError as error:
            raise UserError(f"--metrics={metric.name}: {error}") from error


def measure(
    metric: Metric, real: Real, images: Images, picture: Path | None = None
) -> dict[str, Figure]:
    """The figures of one metric, by their names.

    Args:
      metric: one that takes pixels.
      real: what images are judged by.
      images: which are judged.
      picture: where a metric that draws one draws it.

    Raises:
      UserError: for too few images, or real ones that say nothing about them.
    """
    try:
        return metric.named(metric.measure(Judged(real, images, picture)))
    except ValueError as error:
        raise UserError(f"--metrics={metric.name}: {error}") from error


def real_images(train: Source, held_out: Source | None) -> Real:
    """Both splits that there are, in files without a name, to be read as they are needed.

    Raises:
      UserError: where there is no space for them.
    """
    try:
        return Real(_images(train), None if held_out is None else _images(held_out))
    except OSError as error:
        raise UserError(
            f"no room for the real images in {tempfile.gettempdir()} ({error.strerror or error}); "
            "make some, or name another folder in the environment's TMPDIR"
        ) from error


def draw_pairs(path: Path, train: Images, drawn: Images, copies: Copies) -> None:
    """The samples nearest to the training set by the ratio of distances, above their neighbours."""
    order = np.argsort(copies.ratios, kind="stable")[:PAIRS]
    if len(order) > PAIR_COLUMNS:  # whole rows
        order = order[: len(order) // PAIR_COLUMNS * PAIR_COLUMNS]
    bands = []
    for start in range(0, len(order), PAIR_COLUMNS):
        part = order[start : start + PAIR_COLUMNS]
        bands += [*drawn.images[part], *train.images[copies.nearest[part]]]
    path.parent.mkdir(exist_ok=True)
    figures.save_png(path, figures.grid(np.stack(bands), min(PAIR_COLUMNS, len(order))))


def _images(source: Source) -> Images:
    """As many as real_data.MOST_IMAGES, evenly spaced."""
    rows = evenly_spaced(source, real_data.MOST_IMAGES)
    with tempfile.TemporaryFile() as file:
        room, labels = None, []
        for start in range(0, len(rows), READ):
            examples = [source[k] for k in rows[start : start + READ]]
            labels += [int(example["label"]) for example in examples]
            images = images_of.of_256_levels([e["image"] for e in examples], source.info)
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

"""The space in which samples are compared with data: its extractor, and features kept on disk."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.config.checks import EXTRACTORS
from ddpm_jax.data import DataInfo, Source, evenly_spaced, fingerprint
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import classifier, features, inception, moments, statistics
from ddpm_jax.evaluation.features import Extractor, Features
from ddpm_jax.evaluation.moments import Statistics
from ddpm_jax.interop import inception as weights_of_inception
from ddpm_jax.runtime import digests, files
from ddpm_jax.runtime.shards import Arrays, Shards

PCA_COMPONENTS = 64
# What components are fitted to: 10,000 images of CIFAR's size, fewer of larger ones.
PCA_IMAGES = range(1_000, 10_001)
PCA_VALUES = 2**25
NUM_REFERENCE = 50_000
ROWS = 1024  # of the reference in one file


class Space(NamedTuple):
    """An extractor, and the data's own features.

    Attributes:
      extractor: of images uint8 [N, H, W, C] of 256 levels.
      reference: features of the data that samples are compared with, or their statistics alone.
      held_out: features of the other split.
      described: the reference as JSON, as a result names it.
      statistics: of a part of the reference's features ("pooled", "spatial"), computed once and
        kept on disk.
    """

    extractor: Extractor
    reference: Features | Statistics
    held_out: Features
    described: dict[str, Any]
    statistics: Callable[[str], Statistics]

    @property
    def num_reference(self) -> int | None:
        """The number of images of the reference, where it is known."""
        return self.described["num"]


def space(
    name: str,
    sources: Mapping[str, Source],
    auto: str,
    *,
    reference: str,
    num_reference: int,
    weights: str | None,
    resize: str | None,
    cache: Path,
) -> Space:
    """The space of a name, with the features of the reference; kept in `cache` for the next time.

    Args:
      name: one of EXTRACTORS.
      sources: "train" and "validation".
      auto: which of the others "auto" is for these data.
      reference: which of the sources, the other one is "held out"; or a .npz file of mu and sigma,
        then the validation split is.
      num_reference: at most so many images of each, evenly spaced.
      weights, resize: of inception; None for its default resize.
      cache: a folder.

    Raises:
      UserError: for missing or wrong weights, data that the extractor does not fit, options that
        are of another extractor, or a file of other statistics.
    """
    name = auto if name == "auto" else name
    for flag, value in {"inception_weights": weights, "resize": resize}.items():
        if value is not None and name != "inception":
            raise UserError(f"--{flag}={value} is of --extractor=inception, not {name}: leave it")
    if reference not in sources and Path(reference).suffix != ".npz":
        raise UserError(
            f"--reference={reference}: need {' or '.join(sources)}, or a file F.npz of mu and sigma"
        )
    given = None if reference in sources else _statistics(reference)
    try:
        extractor = _extractor(name, sources, weights, resize, cache)
    except ValueError as error:
        raise UserError(f"--extractor={name}: {error}") from error
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--extractor={name}: cannot keep it in {cache} ({reason})") from error

    def features_of(split: str) -> tuple[Features, dict[str, Any]]:
        source = sources[split]
        num = min(len(source), num_reference)
        of = {"split": split, "num": num, "fingerprint": fingerprint(source)}
        if num < len(source):
            of["evenly_spaced_of"] = len(source)
        parts = Shards(cache, {"of": of, **kept_as(extractor)}, num, ROWS)
        return Features(**parts.together(_of_source(source, num, extractor))), of

    held_out, _ = features_of("train" if reference == "validation" else "validation")
    if given is None:
        found, of = features_of(reference)
        kept = {"of": of, **kept_as(extractor)}

        @functools.cache
        def statistics_of(part: str) -> Statistics:
            def make(_: range) -> Arrays:
                made = moments.statistics(moments.of(getattr(found, part)))
                return {"mean": made.mean[None], "covariance": made.covariance[None]}

            _, arrays = Shards(cache, {"statistics": part, **kept}, 1, 1).part(0, make)
            return Statistics(arrays["mean"][0], arrays["covariance"][0], of["num"])

        return Space(extractor, found, held_out, of, statistics_of)
    width = held_out.pooled.shape[1]
    if len(given.mean) != width:
        raise UserError(
            f"--reference={reference}: has {len(given.mean)} dimensions, and the features of "
            f"--extractor={name} have {width}"
        )
    of = {"file": Path(reference).name, "num": given.num, "blake3": files.blake3_of(reference)}
    return Space(extractor, given, held_out, of, lambda _: given)


def export(space: Space, path: str) -> None:
    """Write the mean and covariance of the reference to a .npz file, as `reference` takes it.

    Raises:
      UserError: where it cannot be written.
    """
    try:
        statistics.save(path, space.statistics("pooled"))
    except OSError as error:
        raise UserError(f"--export_reference={path}: {error.strerror or error}") from error
    print(f"mu and sigma of the reference in {path}", file=sys.stderr)


def _statistics(path: str) -> Statistics:
    try:
        return statistics.read(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--reference={path}: {reason}") from error


def told(extractor: Extractor) -> dict[str, Any]:
    """What names an extractor in a result."""
    return {"name": extractor.name, **extractor.protocol}


def kept_as(extractor: Extractor) -> dict[str, Any]:
    """What features on disk depend on, beside the images."""
    return {"extractor": told(extractor), "code": digests.of_code("evaluation", "models")}


def of_images(extractor: Extractor, images: np.ndarray) -> Arrays:
    """The features of images as arrays to be kept."""
    try:
        found = extractor.apply(images)
    except ValueError as error:
        raise UserError(f"--extractor={extractor.name}: {error}") from error
    return {name: array for name, array in found._asdict().items() if array is not None}


def eight_bit(source: Source, rows: Iterable[int]) -> np.ndarray:
    """Images of a source, uint8 [n, H, W, C], as `of_256_levels`."""
    return of_256_levels([source[k]["image"] for k in rows], source.info)


def of_256_levels(images: Sequence[np.ndarray], info: DataInfo) -> np.ndarray:
    """Images of data, uint8 [n, H, W, C], their pixel values spread over 0 to 255.

    As samples are written: of 17 levels the largest is 255, and they are rounded.
    """
    stacked, top = np.stack(images), info.levels - 1
    return stacked if top == 255 else np.round(stacked * (255 / top)).astype(np.uint8)


def eight_bit_info(info: DataInfo) -> DataInfo:
    """The info of a source whose images went through `eight_bit`."""
    return dataclasses.replace(info, levels=256)


def _of_source(source: Source, num: int, extractor: Extractor) -> Callable[[range], Arrays]:
    chosen = evenly_spaced(source, num)
    return lambda rows: of_images(extractor, eight_bit(source, [chosen[k] for k in rows]))


def _extractor(
    name: str,
    sources: Mapping[str, Source],
    weights: str | None,
    resize: str | None,
    cache: Path,
) -> Extractor:
    train = sources["train"]
    info = eight_bit_info(train.info)
    if name == "pixels":
        return features.pixels(info.image_shape)
    if name == "pca":
        fitting = PCA_VALUES // int(np.prod(info.image_shape))
        num = min(max(fitting, PCA_IMAGES[0]), PCA_IMAGES[-1])
        images = eight_bit(train, evenly_spaced(train, num))
        return features.pca(images, PCA_COMPONENTS, or_fewer=True)
    if name == "classifier":
        trained = classifier.load_or_train(cache, train, sources["validation"])
        shown = ", ".join(f"{head} {share:.3f}" for head, share in trained.accuracy.items())
        print(f"features of a classifier whose held-out accuracy is {shown}", file=sys.stderr)
        return classifier.extractor(trained, info)
    if name == "inception":
        if weights is None:
            raise ValueError(
                f"needs --inception_weights=F.safetensors: {weights_of_inception.HOW_TO_GET}; or "
                "choose another extractor"
            )
        params, digest = weights_of_inception.inception_from_file(weights)
        chosen = resize or "bicubic"
        normalisation = "torch" if chosen == "bilinear_torch" else "tensorflow"
        return inception.extractor(params, digest, resize=chosen, normalisation=normalisation)
    raise ValueError(f"is unknown: choose among {', '.join(EXTRACTORS)}")

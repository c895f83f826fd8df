"""The space in which samples are compared with data: its extractor, and features kept on disk."""

import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.data import Source, evenly_spaced, fingerprint
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import moments, statistics
from ddpm_jax.evaluation.features import Extractor, Features
from ddpm_jax.evaluation.moments import Statistics
from ddpm_jax.measures import extractors, images_of
from ddpm_jax.runtime import digests, files
from ddpm_jax.runtime.shards import Arrays, Shards

NUM_REFERENCE = 50_000
ROWS = 1024  # of the reference in one file


class Space(NamedTuple):
    """An extractor, and the data's own features.

    Attributes:
      extractor: of images uint8 [N, H, W, C] of 256 levels.
      reference: features of the data that samples are compared with, or their statistics alone.
      held_out: features of the other split; None where there is no such data.
      data: features of real images, whichever there are: what the space has shows in them.
      described: the reference as JSON, as a result names it.
      statistics: of a part of the reference's features ("pooled", "spatial"), computed once and
        kept on disk.
    """

    extractor: Extractor
    reference: Features | Statistics
    held_out: Features | None
    data: Features
    described: dict[str, Any]
    statistics: Callable[[str], Statistics]

    @property
    def num_reference(self) -> int | None:
        """The number of images of the reference, where it is known."""
        return self.described["num"]


def space(
    name: str,
    sources: Mapping[str, Source | None],
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
      name: as `extractors.build` takes it, or "auto".
      sources: "train" and "validation"; None where there are no such images.
      auto: which extractor "auto" is for these data.
      reference: which of the sources, the other one is "held out"; or a .npz file of mu and sigma,
        then the validation split is.
      num_reference: at most so many images of each, evenly spaced.
      weights, resize: of inception; None for its default resize.
      cache: a folder.

    Raises:
      UserError: for missing or wrong weights, data that the extractor does not fit, options that
        are of another extractor, or a file of other statistics.
    """
    name = auto if name == extractors.AUTO else name
    for flag, value in {"inception_weights": weights, "resize": resize}.items():
        if value is not None and name != extractors.FLAGS[flag]:
            raise UserError(
                f"--{flag}={value} applies only to --extractor={extractors.FLAGS[flag]}, "
                f"not {name}: leave it out"
            )
    if reference not in sources and Path(reference).suffix != ".npz":
        raise UserError(
            f"--reference={reference}: need {' or '.join(sources)}, or a file F.npz of mu and sigma"
        )
    other = "train" if reference == "validation" else "validation"
    if reference in sources and sources[reference] is None:
        raise UserError(f"--reference={reference}: this run's data has no such images; take train")
    stored = None if reference in sources else _statistics(reference)
    train = sources["train"]
    assert train is not None  # a run without data was not trained
    inputs = extractors.Inputs(train, sources["validation"], weights, resize, cache)
    extractor = extractors.build(name, inputs)

    def features_of(split: str, source: Source) -> tuple[Features, dict[str, Any]]:
        num = min(len(source), num_reference)
        of = {"split": split, "num": num, "fingerprint": fingerprint(source)}
        if num < len(source):
            of["evenly_spaced_of"] = len(source)
        parts = Shards(cache, {"of": of, **kept_as(extractor)}, num, ROWS)
        return Features(**parts.together(_of_source(source, num, extractor))), of

    of_other = sources[other]
    held_out = None if of_other is None else features_of(other, of_other)[0]
    if stored is not None:
        data = features_of("train", train)[0] if held_out is None else held_out
        width = data.pooled.shape[1]
        if len(stored.mean) != width:
            raise UserError(
                f"--reference={reference}: has {len(stored.mean)} dimensions, and the features of "
                f"--extractor={name} have {width}"
            )
        digest = files.blake3_of(reference)
        of = {"file": Path(reference).name, "num": stored.num, "blake3": digest}
        return Space(extractor, stored, held_out, data, of, lambda _: stored)
    of_reference = sources[reference]
    assert of_reference is not None  # refused above
    target, of = features_of(reference, of_reference)
    num = len(target.pooled)
    kept = {"of": of, **kept_as(extractor)}

    @functools.cache
    def statistics_of(part: str) -> Statistics:
        def make(_: range) -> Arrays:
            made = moments.statistics(moments.of(getattr(target, part)))
            return {"mean": made.mean[None], "covariance": made.covariance[None]}

        _, arrays = Shards(cache, {"statistics": part, **kept}, 1, 1).part(0, make)
        return Statistics(arrays["mean"][0], arrays["covariance"][0], num)

    return Space(extractor, target, held_out, held_out or target, of, statistics_of)


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


def extractor_record(extractor: Extractor) -> dict[str, Any]:
    """What names an extractor in a result."""
    return {"name": extractor.name, **extractor.protocol}


def kept_as(extractor: Extractor) -> dict[str, Any]:
    """What features on disk depend on, beside the images."""
    return {
        "extractor": extractor_record(extractor),
        "code": digests.of_code("evaluation", "models"),
    }


def of_images(extractor: Extractor, images: np.ndarray) -> Arrays:
    """The features of images as arrays to be kept."""
    try:
        outputs = extractor.apply(images)
    except ValueError as error:
        raise UserError(f"--extractor={extractor.name}: {error}") from error
    return {name: array for name, array in outputs._asdict().items() if array is not None}


def _of_source(source: Source, num: int, extractor: Extractor) -> Callable[[range], Arrays]:
    places = evenly_spaced(source, num)
    return lambda rows: of_images(extractor, images_of.eight_bit(source, [places[k] for k in rows]))

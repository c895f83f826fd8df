"""Measures of samples as a distribution in a space of features, for `evaluate`."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import (
    frechet,
    inception_score,
    intervals,
    kernel_distance,
    manifold,
    moments,
)
from ddpm_jax.evaluation.features import Features
from ddpm_jax.evaluation.moments import Statistics
from ddpm_jax.measures import results
from ddpm_jax.measures.metric import Metric, Sizes
from ddpm_jax.measures.results import Figure

K = 5  # neighbours, of precision, recall, density and coverage (Naeem et al. 2020)
# Samples a dimension, below which the bias of the distance is not one over their number.
LEAST_FOR_INFINITY = 4
# Above so many kernel values KID is the mean over subsets, as in the literature.
MOST_PAIRS = 10**9

Reference = Features | Statistics


@dataclasses.dataclass(frozen=True, eq=False)
class Sets:
    """What is compared in a space of features.

    Attributes:
      reference: features of the data; or their statistics, which are enough for the Fréchet
        distance.
      samples: features of samples.
      statistics: those of a part of the reference's features, "pooled" or "spatial".
      seed: of groups and subsets.
      kid_subsets: None for all pairs at once, where they are not too many.
      metric: the name that messages have.
    """

    reference: Reference
    samples: Features
    statistics: Callable[[str], Statistics]
    seed: int = 0
    kid_subsets: int | None = None
    metric: str = ""


def measure(
    metrics: Sequence[Metric],
    reference: Reference,
    samples: Features,
    *,
    seed: int,
    kid_subsets: int | None = None,
    statistics: Callable[[str], Statistics] | None = None,
) -> dict[str, Figure]:
    """The figures of metrics in a space of features.

    Args:
      metrics: those of `metrics.METRICS` that need a space, or a user's.
      reference, samples, seed, kid_subsets: as of `Sets`.
      statistics: those of a part of the reference's features, where they are kept.

    Raises:
      UserError: for features that a metric does not have, or too few of them.
    """
    figures: dict[str, Figure] = {}
    kept = statistics or functools.partial(_statistics, reference)
    sets = Sets(reference, samples, kept, seed, kid_subsets)
    for metric in metrics:
        try:
            figures |= metric.named(metric.measure(sets))
        except ValueError as error:
            raise UserError(f"--metrics={metric.name}: {error}") from error
    return figures


def check(metrics: Sequence[Metric], reference: Reference, samples: Features) -> None:
    """Whether metrics can be measured in this space, however many samples there are.

    Args:
      metrics: as in `measure`.
      reference: as in `measure`; too few for a Fréchet distance is reported on stderr.
      samples: features of any images.

    Raises:
      UserError: for features that a metric does not have, or too few of the reference.
    """
    for metric in metrics:
        sets = Sets(
            reference, samples, functools.partial(_statistics, reference), metric=metric.name
        )
        try:
            if metric.fits is not None:
                metric.fits(sets)
        except ValueError as error:
            raise UserError(f"--metrics={metric.name}: {error}") from error


def protocol(metrics: Sequence[Metric], sizes: Sizes) -> dict[str, Any]:
    """What the metrics' values depend on beside the features, by their names."""
    settings = {m.name: m.protocol(sizes) for m in metrics if m.protocol is not None}
    return {name: one for name, one in settings.items() if one}


def warn_of_few(sets: Sets) -> None:
    """Says on stderr where the reference has fewer images than its features dimensions."""
    _warn_of_reference(sets, sets.samples.pooled.shape[1])


def has_spatial(sets: Sets) -> None:
    """Raises ValueError for features without a spatial part; warns as `warn_of_few`."""
    _warn_of_reference(sets, _spatial(sets).shape[1])


def has_logits(sets: Sets) -> None:
    """Raises ValueError for features without classes."""
    _logits(sets.samples)


def has_rows(sets: Sets, least: int) -> None:
    """Raises ValueError for fewer features of the reference than `least`, or none of its own."""
    num = len(_rows(sets.reference))
    if num < least:
        raise ValueError(f"needs {least} images of the reference, and there are {num}")


def _warn_of_reference(sets: Sets, width: int) -> None:
    reference = sets.reference
    num = reference.num if isinstance(reference, Statistics) else len(reference.pooled)
    if num is not None and num <= width:
        print(
            f"--metrics={sets.metric}: {num:,} images of the reference in {width:,} dimensions: "
            "their covariance lacks directions, so the distance is too large whatever the samples; "
            "take KID, or a larger reference",
            file=sys.stderr,
        )


def fid(sets: Sets) -> tuple[Figure, Figure | None]:
    """The Fréchet distance, and less the bias of a finite number of samples (None for too few)."""
    return _frechet(sets.samples.pooled, sets.statistics("pooled"), sets.seed)


def sfid(sets: Sets) -> Figure:
    """The Fréchet distance of spatial features (Nash et al. 2021)."""
    return _frechet(_spatial(sets), sets.statistics("spatial"), sets.seed)[0]


def frechet_alone(sets: Sets) -> float:
    """The Fréchet distance; its interval takes twenty times as long."""
    return frechet.frechet_distance(moments.of(sets.samples.pooled), sets.statistics("pooled"))


def kid(sets: Sets) -> Figure:
    """The kernel distance, unbiased, of all pairs or over subsets (Bińkowski et al. 2018)."""
    target, rows = _rows(sets.reference), sets.samples.pooled
    number = _subsets(len(rows), len(target), sets.kid_subsets)
    if not number:
        if _few(rows):
            return Figure(kernel_distance.value(rows, target))
        return results.of_interval(kernel_distance.unbiased(rows, target, seed=sets.seed))
    many = kernel_distance.kernel_distance(rows, target, subsets=number, seed=sets.seed)
    around = results.normal(many.value, many.standard_error)
    return around._replace(interval="over overlapping subsets, 95%")


def kid_alone(sets: Sets) -> float:
    """The value of `kid`."""
    return kid(sets).value


def kid_protocol(sizes: Sizes) -> dict[str, Any]:
    """Whether KID is of all pairs, or over how many subsets of which size."""
    num_samples, num_reference, kid_subsets = sizes
    if not num_reference:
        return {}
    number = _subsets(num_samples, num_reference, kid_subsets)
    size = min(kernel_distance.SUBSET_SIZE, num_samples, num_reference)
    return {"subsets": number, "subset_size": size} if number else {"pairs": "all"}


def prdc(sets: Sets) -> tuple[Figure, ...]:
    """Precision, recall, density and coverage, by `K` neighbours (Naeem et al. 2020)."""
    target, rows = _rows(sets.reference), sets.samples.pooled
    groups = 0 if _few(rows) else intervals.NUM_GROUPS
    scores = manifold.prdc(rows, target, K, num_groups=groups, seed=sets.seed)
    if not groups:
        return tuple(map(Figure, scores[:4]))
    return tuple(results.of_interval(scores.intervals[name]) for name in scores._fields[:4])


def prdc_protocol(_: Sizes) -> dict[str, Any]:
    """The number of neighbours."""
    return {"k": K}


def inception_score_of(sets: Sets) -> Figure:
    """The inception score with Student's interval over its splits (Salimans et al. 2016)."""
    score = inception_score.inception_score(_logits(sets.samples))
    freedom = score.splits - 1
    error = score.std / freedom**0.5  # `std` is divided by the number of splits
    around = intervals.around(score.mean, error, freedom, f"over {score.splits} splits")
    return results.of_interval(around)


def inception_score_protocol(_: Sizes) -> dict[str, Any]:
    """The number of splits."""
    return {"splits": inception_score.SPLITS}


def _frechet(rows: Any, target: Statistics, seed: int) -> tuple[Figure, Figure | None]:
    if warning := frechet.rank_warning(len(rows), rows.shape[1]):
        print(warning, file=sys.stderr)
    if _few(rows):
        return Figure(frechet.frechet_distance(moments.of(rows), target)), None
    around = frechet.frechet_intervals(rows, target, seed=seed)
    distance = results.of_interval(around.at_size)
    if len(rows) < LEAST_FOR_INFINITY * rows.shape[1]:
        return distance, None
    return distance, results.of_interval(around.unbiased)


def _few(rows: Any) -> bool:
    """Fewer samples than the groups of an interval take: the figure is given alone."""
    return len(rows) < 2 * intervals.NUM_GROUPS


def _statistics(reference: Reference, name: str) -> Statistics:
    if isinstance(reference, Statistics):
        return reference
    return moments.statistics(moments.of(getattr(reference, name)))


def _logits(samples: Features) -> Any:
    if samples.logits is None:
        raise ValueError(
            "these features come without classes: take --extractor=classifier or inception"
        )
    return samples.logits


def _spatial(sets: Sets) -> Any:
    reference, samples = sets.reference, sets.samples
    both = isinstance(reference, Features) and reference.spatial is not None
    if samples.spatial is None or not both:
        raise ValueError("these features have no spatial part: take --extractor=inception")
    return samples.spatial


def _rows(reference: Reference) -> Any:
    if isinstance(reference, Statistics):
        raise ValueError("needs the reference's features, and its file holds mu and sigma alone")
    return reference.pooled


def _subsets(num_samples: int, num_reference: int, kid_subsets: int | None) -> int | None:
    """The number of subsets of KID; None for all pairs at once."""
    if kid_subsets is not None:
        return kid_subsets
    few = (num_samples + num_reference) ** 2 <= MOST_PAIRS
    return None if few else kernel_distance.SUBSETS

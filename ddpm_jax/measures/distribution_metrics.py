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
from ddpm_jax.measures.results import Figure

PRDC = ("precision", "recall", "density", "coverage")
FIGURES = ("fid", "sfid", "kid", "is", *PRDC)  # up to "_infinity", what METRICS measure
K = 5  # neighbours, of precision, recall, density and coverage (Naeem et al. 2020)
# Samples a dimension, below which the bias of the distance is not one over their number.
LEAST_FOR_INFINITY = 4
# Above so many kernel values KID is the mean over subsets, as the literature has it.
MOST_PAIRS = 10**9

Reference = Features | Statistics


@dataclasses.dataclass(frozen=True, eq=False)
class _Sets:
    """What is compared: `statistics` are those of a part of the reference's features."""

    reference: Reference
    samples: Features
    seed: int
    subsets: int | None
    statistics: Callable[[str], Statistics]


def measure(
    metrics: Sequence[str],
    reference: Reference,
    samples: Features,
    *,
    seed: int,
    kid_subsets: int | None = None,
    known: Callable[[str], Statistics] | None = None,
) -> dict[str, Figure]:
    """The figures of some of METRICS.

    Args:
      metrics: which.
      reference: features of the data; or their statistics, which are enough for "fid".
      samples: features of samples.
      seed: of groups and subsets.
      kid_subsets: of KID; None for all pairs at once, where they are not too many.
      known: the statistics of a part of the reference's features, where they are kept.

    Raises:
      UserError: for features that a metric does not have, or too few of them.
    """
    found: dict[str, Figure] = {}
    of_reference = known or functools.partial(_statistics, reference)
    sets = _Sets(reference, samples, seed, kid_subsets, of_reference)
    for metric in metrics:
        try:
            found |= METRICS[metric](sets)
        except ValueError as error:
            raise UserError(f"--metrics={metric}: {error}") from error
    return found


def distance(
    metric: str, reference: Features, samples: Features, known: Callable[[str], Statistics]
) -> float:
    """The value of one of `config_checks.DISTANCES`: FID's interval takes twenty times as long.

    Raises:
      ValueError: for features of another width, or too few of them.
    """
    if metric == "kid":
        return _kid(_Sets(reference, samples, 0, None, known))["kid"].value
    return frechet.frechet_distance(moments.of(samples.pooled), known("pooled"))


def check(metrics: Sequence[str], reference: Reference, samples: Features) -> None:
    """Whether some of METRICS can be measured in this space, however many samples there are.

    Args:
      metrics: which.
      reference: as in `measure`; too few for "fid" is told on stderr.
      samples: features of any images.

    Raises:
      UserError: for features that a metric does not have, or too few of the reference.
    """
    for metric in metrics:
        try:
            if metric == "is":
                _logits(samples)
            elif metric in ("kid", "prdc"):
                least, num = (2 if metric == "kid" else K + 1), len(_rows(reference))
                if num < least:
                    raise ValueError(f"needs {least} images of the reference, and there are {num}")
            else:
                _warn_of_reference(metric, reference, samples)
        except ValueError as error:
            raise UserError(f"--metrics={metric}: {error}") from error


def _warn_of_reference(metric: str, reference: Reference, samples: Features) -> None:
    rows = samples.pooled if metric == "fid" else _spatial(reference, samples)
    num = reference.num if isinstance(reference, Statistics) else len(reference.pooled)
    if num is not None and num <= rows.shape[1]:
        print(
            f"--metrics={metric}: {num:,} images of the reference in {rows.shape[1]:,} dimensions: "
            "their covariance lacks directions, so the distance is too large whatever the samples; "
            "take KID, or a larger reference",
            file=sys.stderr,
        )


def protocol(
    metrics: Sequence[str], num_samples: int, num_reference: int | None, kid_subsets: int | None
) -> dict[str, Any]:
    """What the metrics' values depend on beside the features."""
    found: dict[str, Any] = {}
    if "kid" in metrics and num_reference:
        number = _subsets(num_samples, num_reference, kid_subsets)
        size = min(kernel_distance.SUBSET_SIZE, num_samples, num_reference)
        found["kid"] = {"pairs": "all"} if not number else {"subsets": number, "subset_size": size}
    if "prdc" in metrics:
        found["prdc"] = {"k": K}
    if "is" in metrics:
        found["is"] = {"splits": inception_score.SPLITS}
    return found


def _fid(sets: _Sets) -> dict[str, Figure]:
    return _frechet("fid", sets.samples.pooled, sets.statistics("pooled"), sets.seed)


def _sfid(sets: _Sets) -> dict[str, Figure]:
    rows = _spatial(sets.reference, sets.samples)
    found = _frechet("sfid", rows, sets.statistics("spatial"), sets.seed)
    return {"sfid": found["sfid"]}


def _frechet(name: str, rows: Any, target: Statistics, seed: int) -> dict[str, Figure]:
    if warning := frechet.rank_warning(len(rows), rows.shape[1]):
        print(warning, file=sys.stderr)
    if _few(rows):
        return {name: Figure(frechet.frechet_distance(moments.of(rows), target))}
    around = frechet.frechet_intervals(rows, target, seed=seed)
    found = {name: results.of_interval(around.at_size)}
    if len(rows) < LEAST_FOR_INFINITY * rows.shape[1]:
        return found
    return found | {f"{name}_infinity": results.of_interval(around.unbiased)}


def _kid(sets: _Sets) -> dict[str, Figure]:
    target, rows = _rows(sets.reference), sets.samples.pooled
    number = _subsets(len(rows), len(target), sets.subsets)
    if not number:
        if _few(rows):
            return {"kid": Figure(kernel_distance.value(rows, target))}
        one = kernel_distance.unbiased(rows, target, seed=sets.seed)
        return {"kid": results.of_interval(one)}
    many = kernel_distance.kernel_distance(rows, target, subsets=number, seed=sets.seed)
    around = results.normal(many.value, many.standard_error)
    return {"kid": around._replace(interval="over overlapping subsets, 95%")}


def _prdc(sets: _Sets) -> dict[str, Figure]:
    target, rows = _rows(sets.reference), sets.samples.pooled
    groups = 0 if _few(rows) else intervals.NUM_GROUPS
    found = manifold.prdc(rows, target, K, num_groups=groups, seed=sets.seed)
    if not groups:
        return {name: Figure(getattr(found, name)) for name in PRDC}
    return {name: results.of_interval(found.intervals[name]) for name in PRDC}


def _is(sets: _Sets) -> dict[str, Figure]:
    found = inception_score.inception_score(_logits(sets.samples))
    freedom = found.splits - 1
    error = found.std / freedom**0.5  # `std` is divided by the number of splits
    around = intervals.around(found.mean, error, freedom, f"over {found.splits} splits")
    return {"is": results.of_interval(around)}


METRICS: dict[str, Callable[[_Sets], dict[str, Figure]]] = {
    "fid": _fid,
    "sfid": _sfid,
    "kid": _kid,
    "is": _is,
    "prdc": _prdc,
}


def _few(rows: Any) -> bool:
    """Fewer samples than the groups of an interval take: the figure is told alone."""
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


def _spatial(reference: Reference, samples: Features) -> Any:
    known = isinstance(reference, Features) and reference.spatial is not None
    if samples.spatial is None or not known:
        raise ValueError("these features have no spatial part: take --extractor=inception")
    return samples.spatial


def _rows(reference: Reference) -> Any:
    if isinstance(reference, Statistics):
        raise ValueError("needs the reference's features, and its file holds mu and sigma alone")
    return reference.pooled


def _subsets(num_samples: int, num_reference: int, given: int | None) -> int | None:
    """The number of subsets of KID; None for all pairs at once."""
    if given is not None:
        return given
    few = (num_samples + num_reference) ** 2 <= MOST_PAIRS
    return None if few else kernel_distance.SUBSETS

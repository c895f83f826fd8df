"""What evaluate.py measures of samples, and in which space it compares them."""

import dataclasses
from typing import Any, cast

from ddpm_jax.build.datasets import dataset
from ddpm_jax.build.sampling import flat
from ddpm_jax.experiment import Loaded, described
from ddpm_jax.measures import (
    distribution_metrics,
    drawing_cost,
    extractors,
    feature_space,
    real_data,
    results,
    sample_metrics,
)
from ddpm_jax.measures.drawer import Drawer
from ddpm_jax.measures.metric import Needs, Sizes
from ddpm_jax.runtime.user_cache import cache_dir


@dataclasses.dataclass(frozen=True)
class SpaceFlags:
    """In which space of features distributions are compared, and with what.

    Attributes:
      extractor: as `extractors.build` takes it; None for the one that fits the data.
      inception_weights: a safetensors file.
      resize: of inception.
      reference: "train", "validation", or a .npz file of mu and sigma; None for "train".
      num_reference: at most so many of its images; None for 50,000.
      export_reference: a .npz file to write its mu and sigma to.
    """

    extractor: str | None = None
    inception_weights: str | None = None
    resize: str | None = None
    reference: str | None = None
    num_reference: int | None = None
    export_reference: str | None = None


def measure(
    loaded: Drawer, request: sample_metrics.Request, flags: SpaceFlags, report: dict[str, Any]
) -> None:
    """Adds what is about samples to the report."""
    config = loaded.experiment.config
    of_space = request.of(lambda needs: needs.space)
    compared = None
    if of_space:
        compared = feature_space.space(
            flags.extractor or extractors.AUTO,
            real_data.sources(loaded),
            dataset(config, loaded.experiment.own).extractor,
            reference=flags.reference or "train",
            num_reference=flags.num_reference or feature_space.NUM_REFERENCE,
            weights=flags.inception_weights,
            resize=flags.resize,
            cache=cache_dir() / "features",
        )
        if flags.export_reference:
            feature_space.export(compared, flags.export_reference)
    measured = sample_metrics.measure(loaded, request, compared)
    guides = dict(request.task.guides)
    told = request.task.image_embedding
    if told is not None and told.prior is not None:
        guides["prior"] = told.prior
    report["protocol"] |= {
        "num_samples": request.num_samples,
        "repeats": request.repeats,
        # All that is set: two protocols never look alike.
        "sampling": {k: v for k, v in flat(config).items() if k not in sample_metrics.OTHERWISE},
        "guides": {name: described(one) for name, one in guides.items()},
    }
    if request.of(lambda needs: needs is Needs.DRAWING):
        report["protocol"]["timed"] = drawing_cost.protocol(cast(Loaded, loaded))
    report["protocol"] |= {name: described(judge) for name, judge in request.judges.items()}
    num_reference = None if compared is None else compared.num_reference
    sizes = Sizes(request.num_samples, num_reference, request.kid_subsets)
    settings = distribution_metrics.protocol(request.metrics, sizes)
    if compared is not None:
        report["protocol"] |= {
            "extractor": feature_space.extractor_record(compared.extractor),
            "reference": compared.described,
        }
    if settings or compared is not None:
        report["protocol"]["metrics"] = settings
    report["samples"] = measured.rows
    report["held_out_data"] = {"metrics": measured.held_out}
    names = dict.fromkeys(n for row in measured.rows for n in row["metrics"]) | measured.held_out
    report["figures"] = results.labelled(measured.labels, names)

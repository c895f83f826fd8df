"""Measures of a trained model: its samples, its likelihood; as a table and as a file."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax import cli, experiment, sample_flags
from ddpm_jax.build.datasets import dataset
from ddpm_jax.commands.evaluate import checks, exported_features
from ddpm_jax.commands.evaluate.checks import ACCURACY, LIKELIHOOD, NAMES
from ddpm_jax.commands.sample import sampling_options, task_flags
from ddpm_jax.data import fingerprint
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Loaded, described
from ddpm_jax.measures import (
    attributes,
    classification,
    distribution_metrics,
    feature_space,
    likelihood,
    results,
    sample_metrics,
)
from ddpm_jax.reporting import plots

NUM_SAMPLES = 500
OF_NAMES = {LIKELIHOOD: "likelihood", ACCURACY: "accuracy"}
CACHE = "cache"
# Of the command line; those of SpaceFlags and of what guides are grouped by `from_flags`.
SPACE = (
    "extractor",
    "inception_weights",
    "resize",
    "reference",
    "num_reference",
    "export_reference",
)
SAMPLING = (*sample_flags.SAMPLER, "options")
SCALES = {"guidance_scale": "guidance_scales", "classifier_scale": "classifier_scales"}
OWN = (
    "workdir",
    "metrics",
    "num_samples",
    "repeats",
    "kid_subsets",
    "seed",
    "step",
    "raw_params",
    "name",
    "num_terms",
)
EXPORTED = ("sample_features", "reference_features")
FLAGS = (*OWN, *SAMPLING, *SCALES, *SPACE, *sample_flags.GUIDES, *EXPORTED)


@dataclasses.dataclass(frozen=True)
class SpaceFlags:
    """In which space of features distributions are compared, and with what.

    Attributes:
      extractor: a name of `config_checks.EXTRACTORS`; None for "auto".
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


def evaluate(
    workdir: str | None,
    *,
    metrics: Sequence[str] | None = None,
    num_samples: int | None = None,
    repeats: int | None = None,
    guidance_scales: Sequence[str] = (),
    classifier_scales: Sequence[str] = (),
    guides: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] | None = None,
    options: Sequence[str] = (),
    space: SpaceFlags = SpaceFlags(),
    kid_subsets: int | None = None,
    seed: int = 0,
    step: int | str | None = None,
    raw_params: bool = False,
    name: str = "",
    num_terms: int | None = None,
) -> dict[str, Any]:
    """Measure samples at each guidance scale, and held-out bits; write DIR/eval/NAME.json.

    Samples and their features lie in DIR/eval/cache, and are not drawn again.

    Args:
      workdir: of the run.
      metrics: keys of `distribution_metrics.METRICS` and `pixel_metrics.METRICS`, of samples;
        `attributes.METRICS`, of samples that are told what held-out images show; "bpd", bits per
        pixel of the held-out images, for which nothing is drawn; or "accuracy", of a classifier.
        None for those of `evaluation_checks.default_metrics`.
      num_samples: at each scale; None for 500.
      repeats: sets of so many samples, with the seeds seed, seed + 1, ...; None for one.
      guidance_scales, classifier_scales: as text; none: as `sample_metrics.settings` says. More
        than two settings are drawn as a figure, DIR/eval/NAME.png.
      guides: classifier_workdir, weaker_workdir and weaker_step, as `tasks.from_flags` takes them.
      sampling: fields of config.sample that differ from the run's; None leaves one as it is.
      options: others, as text: "method=singlestep".
      space: for the metrics of distributions.
      kid_subsets: as in `distribution_metrics.measure`.
      seed, step, raw_params: as in `experiment.load` and `Loaded.sample`.
      name: of the file; "" for "samples", or "likelihood" if no samples are measured.
      num_terms: of the discrete bound's sum, drawn at random; None for all.

    Returns:
      What the file holds: the protocol, the figures by guidance scale, and the held-out data's own;
      "likelihood" if it was asked for.

    Raises:
      UserError: for anything that is missing or does not fit; no result is written then.
    """
    began = time.monotonic()
    if not workdir:
        raise UserError("--workdir is missing: name the run to evaluate")
    if metrics is None:
        metrics = checks.default_metrics(workdir)
    if not metrics:
        raise UserError(f"--metrics is empty: need some of {', '.join(NAMES)}")
    if unknown := [m for m in metrics if m not in NAMES]:
        raise UserError(f"--metrics={unknown[0]}: need some of {', '.join(NAMES)}")
    metrics = [*dict.fromkeys(metrics)]
    of_samples = [m for m in metrics if m not in (LIKELIHOOD, ACCURACY)]
    of_space = [m for m in metrics if m in distribution_metrics.METRICS]
    name = results.file_name(name or ("samples" if of_samples else OF_NAMES[metrics[0]]))
    of_drawn = {
        "num_samples": num_samples,
        "repeats": repeats,
        "guidance_scale": guidance_scales,
        "classifier_scale": classifier_scales,
        "options": options,
        **(guides or {}),
        **(sampling or {}),
    }
    checks.check_used(metrics, of_samples, of_drawn, num_terms)
    checks.check_space(metrics, of_space, dataclasses.asdict(space) | {"kid_subsets": kid_subsets})
    if seed + (repeats or 1) > 2**32:
        raise UserError(f"--seed={seed}, --repeats={repeats}: the last seed must be below 2**32")
    loaded = experiment.load(workdir, step=step, raw_params=raw_params)
    fields = sampling_options.from_flags(sampling or {}, options, loaded.experiment.config.sample)
    loaded = loaded.sampling_with(**fields)
    config = loaded.experiment.config
    checks.check_kind(loaded, metrics)
    task = task_flags.from_flags(loaded, workdir, **(guides or {}))
    checks.check_labels(loaded, metrics, task)
    checks.check_classes(loaded, workdir)
    attributes.check(loaded, [m for m in metrics if m in attributes.METRICS])
    if LIKELIHOOD in metrics:
        likelihood.check(loaded, num_terms)
    folder = Path(workdir) / "eval"
    report: dict[str, Any] = {
        "format": results.FORMAT,
        "protocol": {"parameters": loaded.parameters, "seed": seed, "data": config.data.name},
        "run": {"checkpoint_step": loaded.step, **described(loaded)},
        "samples": [],
        "held_out_data": {"metrics": {}},
    }
    scales: list[sample_metrics.Setting] = []
    if of_samples:
        scales = sample_metrics.settings(
            guidance_scales, classifier_scales, config.sample.guidance_scale, task
        )
        asked = sample_metrics.Asked(
            metrics=of_samples,
            scales=scales,
            task=task,
            num_samples=num_samples or NUM_SAMPLES,
            seed=seed,
            repeats=repeats or 1,
            kid_subsets=kid_subsets,
            cache=folder / CACHE,
        )
        _measure(loaded, asked, of_space, space, folder / f"{name}_nearest.png", report)
    if [m for m in metrics if m not in (*of_space, LIKELIHOOD)]:
        report["protocol"][sample_metrics.REAL] = sample_metrics.real(loaded, metrics)
    if ACCURACY in metrics:
        images, labels = sample_metrics.arrays(loaded.experiment.source("validation"))
        report[ACCURACY] = classification.accuracy(loaded, images, labels, seed)
    if LIKELIHOOD in metrics:
        source = loaded.experiment.source("validation")
        images, _ = sample_metrics.arrays(source)
        report["likelihood"] = likelihood.bits_per_pixel(
            loaded, images, source.info.levels, seed=seed, num_terms=num_terms
        )
        report["held_out_data"]["metrics"] |= likelihood.totals(report["likelihood"])
        told = likelihood.told(report["likelihood"], fingerprint(source))
        report["protocol"]["likelihood"] = told
    results.write(folder / f"{name}.json", report, began)
    if len(scales) > 2:
        plots.trade_off(
            folder / f"{name}.png",
            sample_metrics.varied(scales),
            [{**row, **results.values(row["metrics"])} for row in report["samples"]],
            results.values(report["held_out_data"]["metrics"]),
        )
    return report


def from_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """`evaluate` as the command line asks for it: the values of FLAGS, by name."""
    if given["sample_features"] or given["reference_features"]:
        own = ("workdir", "metrics", "seed", "kid_subsets", "name")
        cli.refuse([f for f in FLAGS if f not in (*own, *EXPORTED)], "is not of exported features")
        return exported_features.evaluate(
            samples=given["sample_features"],
            reference=given["reference_features"],
            **{name: given[name] for name in own},
        )
    return evaluate(
        **{name: given[name] for name in OWN},
        **{argument: given[flag] for flag, argument in SCALES.items()},
        guides={name: given[name] for name in sample_flags.GUIDES},
        sampling={name: given[name] for name in sample_flags.SAMPLER},
        options=given["options"],
        space=SpaceFlags(**{name: given[name] for name in SPACE}),
    )


def _measure(
    loaded: Loaded,
    asked: sample_metrics.Asked,
    of_space: Sequence[str],
    flags: SpaceFlags,
    pairs: Path,
    report: dict[str, Any],
) -> None:
    """Adds what is about samples to the report."""
    config = loaded.experiment.config
    compared = None
    if of_space:
        compared = feature_space.space(
            flags.extractor or "auto",
            {split: loaded.experiment.source(split) for split in ("train", "validation")},
            dataset(config).extractor,
            reference=flags.reference or "train",
            num_reference=flags.num_reference or feature_space.NUM_REFERENCE,
            weights=flags.inception_weights,
            resize=flags.resize,
            cache=cli.cache_dir() / "features",
        )
        if flags.export_reference:
            feature_space.export(compared, flags.export_reference)
    rows, held_out = sample_metrics.measure(loaded, asked, compared, pairs)
    guides = {"classifier": asked.task.classifier, "weaker": asked.task.weaker}
    report["protocol"] |= {
        "num_samples": asked.num_samples,
        "repeats": asked.repeats,
        # All that is set: two protocols never look alike.
        "sampling": {
            k: v
            for k, v in config.sample.items()
            if v is not None and k not in sample_metrics.OTHERWISE
        },
        "guides": {name: described(one) for name, one in guides.items() if one is not None},
    }
    if compared is not None:
        report["protocol"] |= {
            "extractor": feature_space.told(compared.extractor),
            "reference": compared.described,
            "metrics": distribution_metrics.protocol(
                of_space, asked.num_samples, compared.num_reference, asked.kid_subsets
            ),
        }
    report["samples"] = rows
    report["held_out_data"] = {"metrics": held_out}


def table(report: dict[str, Any]) -> str:
    """The figures of a report as lines of Markdown tables."""
    parts = []
    if "sample_features" in report["run"]:
        return exported_features.table(report)
    if report["samples"]:
        parts.append(sample_metrics.table(report))
    if ACCURACY in report:
        parts.append(classification.table(report[ACCURACY]))
    if "likelihood" in report:
        parts.append(likelihood.table(report["likelihood"]))
    return "\n\n".join(parts)

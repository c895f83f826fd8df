"""Measures of a trained model: its samples, its likelihood; as a table and as a file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax import experiment, files
from ddpm_jax.commands import attributes, classification, likelihood, sample_metrics, tasks
from ddpm_jax.errors import UserError
from ddpm_jax.parts import tasks as tasks_of
from ddpm_jax.reporting import plots

LIKELIHOOD = "bpd"
ACCURACY = "accuracy"
NAMES = (*sample_metrics.METRICS, *attributes.METRICS, LIKELIHOOD, ACCURACY)
NUM_SAMPLES = 500
OF_NAMES = {LIKELIHOOD: "likelihood", ACCURACY: "accuracy"}


def evaluate(
    workdir: str | None,
    *,
    metrics: Sequence[str],
    num_samples: int | None = None,
    guidance_scales: Sequence[str] = (),
    classifier_scales: Sequence[str] = (),
    guides: Mapping[str, Any] | None = None,
    seed: int = 0,
    step: int | None = None,
    raw_params: bool = False,
    name: str = "",
    num_terms: int | None = None,
) -> dict[str, Any]:
    """Measure samples at each guidance scale, and held-out bits; write DIR/eval/NAME.json.

    Args:
      workdir: of the run.
      metrics: keys of `sample_metrics.METRICS`, of samples; `attributes.METRICS`, of samples that
        are told what held-out images show; "bpd", bits per pixel of the held-out images, for which
        nothing is drawn; or "accuracy", of a classifier.
      num_samples: at each scale; None for 500.
      guidance_scales, classifier_scales: as text; none: as `sample_metrics.settings` says. More
        than two settings are drawn as a figure, DIR/eval/NAME.png.
      guides: classifier_workdir, weaker_workdir and weaker_step, as `tasks.from_flags` takes them.
      seed, step, raw_params: as in `experiment.load` and `Loaded.sample`.
      name: of the file; "" for "samples", or "likelihood" if no samples are measured.
      num_terms: of the discrete bound's sum, drawn at random; None for all.

    Returns:
      What the file holds: the protocol, the figures by guidance scale, and the held-out data's own;
      "likelihood" if it was asked for.

    Raises:
      UserError: for anything that is missing or does not fit; nothing is written then.
    """
    if not workdir:
        raise UserError("--workdir is missing: name the run to evaluate")
    if not metrics:
        raise UserError(f"--metrics is empty: need some of {', '.join(NAMES)}")
    if unknown := [m for m in metrics if m not in NAMES]:
        raise UserError(f"--metrics={unknown[0]}: need some of {', '.join(NAMES)}")
    of_samples = [m for m in metrics if m not in (LIKELIHOOD, ACCURACY)]
    name = name or ("samples" if of_samples else OF_NAMES[metrics[0]])
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"--name={name}: need letters, digits, '.', '_' or '-'")
    flags = {
        "num_samples": num_samples,
        "guidance_scale": guidance_scales,
        "classifier_scale": classifier_scales,
        **(guides or {}),
    }
    _check_used(metrics, of_samples, flags, num_terms)
    loaded = experiment.load(workdir, step=step, raw_params=raw_params)
    config = loaded.experiment.config
    _check_kind(loaded, metrics)
    task = tasks.from_flags(loaded, workdir, **(guides or {}))
    labelled = tasks_of.num_classes(config, task) > 0
    if not labelled and (wrong := [m for m in metrics if m in sample_metrics.NEEDS_LABELS]):
        others = [n for n in NAMES if n not in sample_metrics.NEEDS_LABELS]
        raise UserError(
            f"--metrics={wrong[0]} needs labels, and this model is unconditional or told other "
            f"things: choose among {', '.join(others)}"
        )
    attributes.check(loaded, [m for m in metrics if m in attributes.METRICS])
    if LIKELIHOOD in metrics:
        likelihood.check(loaded, num_terms)
    report = {
        "checkpoint_step": loaded.step,
        "parameters": "raw" if raw_params else "ema",
        "seed": seed,
        "data": config.data.name,
    }
    scales: list[sample_metrics.Setting] = []
    if of_samples:
        scales = sample_metrics.settings(
            guidance_scales, classifier_scales, config.sample.guidance_scale, task
        )
        report |= {name: value for name, value in (guides or {}).items() if value is not None}
        report |= sample_metrics.measure(
            loaded, of_samples, scales, task, num_samples or NUM_SAMPLES, seed
        )
    if ACCURACY in metrics:
        images, labels = sample_metrics.arrays(loaded.experiment.source("validation"))
        report[ACCURACY] = classification.accuracy(loaded, images, labels, seed)
    if LIKELIHOOD in metrics:
        source = loaded.experiment.source("validation")
        images, _ = sample_metrics.arrays(source)
        report["likelihood"] = likelihood.bits_per_pixel(
            loaded, images, source.info.levels, seed=seed, num_terms=num_terms
        )
    folder = Path(workdir) / "eval"
    folder.mkdir(exist_ok=True)
    files.write_json(folder / f"{name}.json", report)
    if len(scales) > 2:
        plots.trade_off(
            folder / f"{name}.png",
            sample_metrics.varied(scales),
            report["samples"],
            report["held_out_data"],
        )
    return report


def _check_kind(loaded: experiment.Loaded, metrics: Sequence[str]) -> None:
    """Raises UserError for a classifier's metric of a diffusion model, or the other way round."""
    draws = loaded.experiment.draws_images
    for metric in metrics:
        if draws and metric == ACCURACY:
            raise UserError(f"--metrics={metric}: is of classifiers; this run is a diffusion model")
        if not draws and metric != ACCURACY:
            raise UserError(f"--metrics={metric}: this run is a classifier; it has {ACCURACY}")


def _check_used(
    metrics: Sequence[str],
    of_samples: Sequence[str],
    flags: Mapping[str, Any],
    num_terms: int | None,
) -> None:
    """Raises UserError for a flag that none of the metrics reads."""
    num_samples = flags["num_samples"]
    if num_samples is not None and num_samples < 1:
        raise UserError(f"--num_samples={num_samples}: need at least 1")
    for flag, value in flags.items():
        if value and not of_samples:
            drawn = ",".join(metrics)
            raise UserError(
                f"--{flag} is of samples, and --metrics={drawn} draws none: leave it out"
            )
    if num_terms is not None and LIKELIHOOD not in metrics:
        raise UserError(f"--num_terms={num_terms} is of --metrics=bpd: add it, or leave this out")


def table(report: dict[str, Any]) -> str:
    """The figures of a report as lines of Markdown tables."""
    parts = []
    if "samples" in report:
        parts.append(sample_metrics.table(report))
    if ACCURACY in report:
        parts.append(classification.table(report[ACCURACY]))
    if "likelihood" in report:
        parts.append(likelihood.table(report["likelihood"]))
    return "\n\n".join(parts)

"""Measures of samples at one or several scales of guidance, for `evaluate`."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.data import Source, evenly_spaced, fingerprint
from ddpm_jax.errors import UserError
from ddpm_jax.measures import (
    attributes,
    distribution_metrics,
    feature_space,
    likelihood,
    pixel_metrics,
    results,
)
from ddpm_jax.measures.feature_space import Space
from ddpm_jax.measures.pixel_metrics import Images
from ddpm_jax.measures.results import Figure, Record
from ddpm_jax.measures.sample_sets import SampleSet
from ddpm_jax.trained.loaded import Loaded
from ddpm_jax.trained.tasks import Task

Setting = dict[str, float]


# Of these, held-out data may be too few where samples are not: their own figure is then left out.
OF_ENOUGH = ("class_recall", *distribution_metrics.METRICS)
SCALES = ("guidance_scale", "classifier_scale")
OTHERWISE = (*SCALES, "batch_size", "grid_size")  # stated elsewhere, or of no effect
REAL = "real"  # of the protocol: what images samples are judged by


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """What is measured, of which samples.

    Attributes:
      metrics: of `pixel_metrics.METRICS`, `attributes.METRICS`, `distribution_metrics.METRICS`.
      scales: at which guidance.
      task: what guides besides.
      num_samples: of a set.
      seed: of the first set; the others have the next ones.
      repeats: sets.
      kid_subsets: as `distribution_metrics.measure` takes it.
      cache: the folder of samples and their features.
    """

    metrics: Sequence[str]
    scales: Sequence[Setting]
    task: Task
    num_samples: int
    seed: int
    repeats: int
    kid_subsets: int | None
    cache: Path


def settings(
    guidance_scales: Sequence[str], classifier_scales: Sequence[str], own: float, task: Task
) -> list[Setting]:
    """The scales to measure at: every guidance scale with every classifier's.

    Without guidance scales the run's own, and 1 beside it if that is not 1; with a classifier 1
    alone. Without classifier scales 1, where there is a classifier.

    Raises:
      UserError: for text that is no number, or classifier scales without a classifier.
    """
    if classifier_scales and task.classifier is None:
        raise UserError(
            f"--classifier_scale={','.join(classifier_scales)}: no classifier to scale; name its "
            "run with --classifier_workdir"
        )
    default = [own] if own == 1 else [own, 1.0]
    guidance = _numbers("guidance_scale", guidance_scales)
    if task.classifier is None:
        return [{"guidance_scale": scale} for scale in guidance or default]
    of_classifier = _numbers("classifier_scale", classifier_scales) or [1.0]
    both = itertools.product(guidance or [1.0], of_classifier)
    return [dict(zip(SCALES, scales, strict=True)) for scales in both]


def measure(
    loaded: Loaded, asked: Asked, space: Space | None, pairs: Path
) -> tuple[list[dict[str, Any]], dict[str, Record]]:
    """The figures of samples, a row for each setting, and those of the held-out data.

    Args:
      loaded: the model.
      asked: what of it.
      space: where distributions are compared; None where none are.
      pairs: the PNG of samples beside their nearest training images, drawn with "memorisation".
    """
    of_pixels = [m for m in asked.metrics if m in pixel_metrics.METRICS]
    of_space = [m for m in asked.metrics if m in distribution_metrics.METRICS]
    of_prompts = [m for m in asked.metrics if m in attributes.METRICS]
    if of_pixels:
        splits = [loaded.experiment.source(name) for name in ("train", "validation")]
        real_images = pixel_metrics.real_images(*splits)

    def by_pixels(metric: str, images: Images, pairs: Path | None = None) -> dict[str, Figure]:
        try:
            return pixel_metrics.measure(metric, real_images, images, pairs)
        except ValueError as error:
            raise UserError(f"--metrics={metric}: {error}") from error

    labels = loaded.labels(asked.num_samples, (), asked.task)
    held_out: dict[str, Figure] = {}
    for metric in of_pixels:
        held_out |= _if_enough(metric, lambda m: by_pixels(m, real_images.held_out))
    if space is not None:
        distribution_metrics.check(of_space, space.reference, space.held_out)
        known = space
        for metric in of_space:
            held_out |= _if_enough(metric, lambda m: _in_space([m], known, known.held_out, asked))
    prompts = {m: attributes.prompts(loaded, m, asked.num_samples) for m in of_prompts}
    for metric, prompt in prompts.items():
        held_out |= attributes.measure(loaded, metric, prompt, prompt.images)

    def of_set(setting: Setting, repeat: int) -> dict[str, Figure]:
        options: dict[str, Any] = {**setting}
        seed = asked.seed + repeat
        found: dict[str, Figure] = {}
        if of_pixels or space is not None:
            drawing = loaded.drawing(asked.num_samples, task=asked.task, seed=seed, **options)
            samples = SampleSet(drawing, asked.cache, f"{title(setting)}, seed {seed}")
        if of_pixels:
            images = Images(samples.images(), labels)
            first = (setting, repeat) == (asked.scales[0], 0)
            for metric in of_pixels:
                found |= by_pixels(metric, images, pairs if first else None)
        if space is not None:
            of_samples = samples.features(space.extractor)
            found |= _in_space(of_space, space, of_samples, asked)
        for metric, prompt in prompts.items():
            drawing = attributes.drawing(loaded, metric, prompt, seed, task=asked.task, **setting)
            of_prompt = SampleSet(drawing, asked.cache, f"{metric}, {title(setting)}, seed {seed}")
            found |= attributes.measure(loaded, metric, prompt, of_prompt.images())
        return found

    rows = []
    for setting in asked.scales:
        found = results.over_repeats([of_set(setting, r) for r in range(asked.repeats)])
        options: dict[str, Any] = {**setting}
        rows.append({**setting, "nfe": loaded.nfe(task=asked.task, **options), "metrics": found})
    return rows, {name: figure.record() for name, figure in held_out.items()}


def real(loaded: Loaded, metrics: Sequence[str]) -> dict[str, Any]:
    """The real images that some metrics of samples or classifiers look at, for the protocol."""
    found: dict[str, Any] = {}
    for split in ("train", "validation"):
        source = loaded.experiment.source(split)
        num = min(len(source), pixel_metrics.MOST_IMAGES)
        found[split] = {"num": num, "fingerprint": fingerprint(source)}
    if {*metrics} & {*attributes.METRICS}:
        found["held_out_pairs"] = [*loaded.experiment.config.data.options.get("held_out", ())]
    return found


def _if_enough(metric: str, measure: Callable[[str], dict[str, Figure]]) -> dict[str, Figure]:
    """The held-out data's own figures; of OF_ENOUGH none, which is told, where they are too few."""
    try:
        return measure(metric)
    except UserError as error:
        if metric not in OF_ENOUGH:
            raise
        print(f"the held-out data have no such figure of their own: {error}", file=sys.stderr)
        return {}


def _in_space(
    metrics: Sequence[str], space: Space, samples: feature_space.Features, asked: Asked
) -> dict[str, Figure]:
    return distribution_metrics.measure(
        metrics,
        space.reference,
        samples,
        seed=asked.seed,
        kid_subsets=asked.kid_subsets,
        known=space.statistics,
    )


def table(report: Mapping[str, Any]) -> str:
    """The figures of samples as a Markdown table."""
    rows = {f"samples, {title(row)}": row["metrics"] for row in report["samples"]}
    held_out = report["held_out_data"]["metrics"]
    own = {n: r for n, r in held_out.items() if not n.startswith(likelihood.PREFIX)}
    of_training: dict[str, Any] = {}
    if report["protocol"].get("reference", {}).get("split") == "validation":
        names = [n for n in own if n.removesuffix("_infinity") in distribution_metrics.FIGURES]
        of_training = {name: own.pop(name) for name in names}
    data = {"held-out data": own, "training data": of_training}
    return results.table({**rows, **{name: row for name, row in data.items() if row}})


def title(row: Setting) -> str:
    """The scales of a row: "guidance_scale 1, classifier_scale 4"."""
    return ", ".join(f"{name} {row[name]:g}" for name in SCALES if name in row)


def varied(scales: Sequence[Setting]) -> str:
    """The scale that differs between settings, the last one if both do."""
    return next(n for n in reversed(SCALES) if n in scales[0] and len({s[n] for s in scales}) > 1)


def arrays(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Images in [-1, 1] and labels of a source; of very many as many as are compared."""
    examples = [source[k] for k in evenly_spaced(source, pixel_metrics.MOST_IMAGES)]
    images = np.stack([e["image"] for e in examples]).astype(np.float32)
    return images * (2 / (source.info.levels - 1)) - 1, np.array([e["label"] for e in examples])


def _numbers(flag: str, given: Sequence[str]) -> list[float]:
    try:
        return [*dict.fromkeys(float(scale) for scale in given)]  # a scale that is there twice
    except ValueError as error:
        raise UserError(f"--{flag}={','.join(given)}: need numbers, 1,2,3") from error

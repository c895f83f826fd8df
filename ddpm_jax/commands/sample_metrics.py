"""Measures of samples at one or several scales of guidance, for `evaluate`."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.commands import (
    attributes,
    distribution_metrics,
    feature_space,
    likelihood,
    results,
)
from ddpm_jax.commands.feature_space import Space
from ddpm_jax.commands.results import Figure, Record
from ddpm_jax.commands.sample_sets import SampleSet
from ddpm_jax.data import Source, fingerprint
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import fidelity, intervals, neighbours
from ddpm_jax.experiment import Loaded, Task
from ddpm_jax.reporting import figures

Images = tuple[np.ndarray, np.ndarray]  # float [N, H, W, C] in [-1, 1], labels [N]
Metric = Callable[[Images, Images, Images], Figure]
Setting = dict[str, float]


def _label_accuracy(train: Images, held_out: Images, x: Images) -> Figure:
    return results.share(fidelity.label_accuracy(*train, *x), len(x[0]))


def _memorisation(train: Images, held_out: Images, x: Images) -> Figure:
    found = neighbours.copies(train[0], held_out[0], x[0])
    if len(found.distances) == 1:
        return Figure(found.memorisation)
    mean = intervals.bootstrap_mean(found.distances)
    if not mean.value:  # copies, all of them
        return Figure(found.memorisation)
    scale = found.memorisation / mean.value
    return Figure(found.memorisation, mean.low * scale, mean.high * scale, mean.method)


# Of pixels: name -> (training data, held-out data, images to judge) -> figure
METRICS: dict[str, Metric] = {
    "label_accuracy": _label_accuracy,
    "memorisation": _memorisation,
    "spread": lambda train, held_out, x: Figure(fidelity.spread_ratio(*train, *x)),
    "class_recall": lambda train, held_out, x: Figure(fidelity.recall(*train, *x)),
}
# Of these, held-out data may be too few where samples are not: their own figure is then left out.
OF_ENOUGH = ("class_recall", *distribution_metrics.METRICS)
NEEDS_LABELS = ("label_accuracy", "spread", "class_recall")
SCALES = ("guidance_scale", "classifier_scale")
OTHERWISE = (*SCALES, "batch_size", "grid_size")  # stated elsewhere, or of no effect
REAL = "real"  # of the protocol: what images samples are judged by
MOST_IMAGES = 100_000  # of the real data; drawn shapes have no end
PAIRS = 32  # samples that are drawn with their nearest training images
PAIR_COLUMNS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """What is measured, of which samples.

    Attributes:
      metrics: keys of METRICS, of `attributes.METRICS` and of `distribution_metrics.METRICS`.
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
    of_pixels = [m for m in asked.metrics if m in METRICS]
    of_space = [m for m in asked.metrics if m in distribution_metrics.METRICS]
    of_prompts = [m for m in asked.metrics if m in attributes.METRICS]
    sources = [loaded.experiment.source(s) for s in ("train", "validation") if of_pixels]
    data = [arrays(source) for source in sources]

    def by_pixels(metric: str, images: Images) -> dict[str, Figure]:
        try:
            return {metric: METRICS[metric](data[0], data[1], images)}
        except ValueError as error:
            raise UserError(f"--metrics={metric}: {error}") from error

    labels = loaded.labels(asked.num_samples, (), asked.task)
    held_out: dict[str, Figure] = {}
    for metric in of_pixels:
        held_out |= _if_enough(metric, lambda m: by_pixels(m, data[1]))
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
            samples = SampleSet(drawing, labels, asked.cache, f"{title(setting)}, seed {seed}")
        if of_pixels:
            drawn = samples.images()
            images = (drawn.astype(np.float32) / 127.5 - 1, labels)
            for metric in of_pixels:
                found |= by_pixels(metric, images)
            if "memorisation" in of_pixels and (setting, repeat) == (asked.scales[0], 0):
                _draw_pairs(pairs, sources[0], data, images[0], drawn)
        if space is not None:
            of_samples = samples.features(space.extractor)
            found |= _in_space(of_space, space, of_samples, asked)
        for metric, prompt in prompts.items():
            drawn = attributes.sample(loaded, metric, prompt, seed, task=asked.task, **setting)
            found |= attributes.measure(loaded, metric, prompt, drawn)
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
        num = min(len(source), MOST_IMAGES)
        found[split] = {"num": num, "fingerprint": fingerprint(source)}
    if {*metrics} & {*attributes.METRICS}:
        found["held_out_pairs"] = [*loaded.experiment.config.data.held_out]
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
        metrics, space.reference, samples, seed=asked.seed, kid_subsets=asked.kid_subsets
    )


def _draw_pairs(
    path: Path, train: Source, data: Sequence[Images], images: np.ndarray, drawn: np.ndarray
) -> None:
    """The samples nearest to the training set by the ratio of distances, above their neighbours."""
    found = neighbours.copies(data[0][0], data[1][0], images)
    chosen = np.argsort(found.ratios, kind="stable")[:PAIRS]
    if len(chosen) > PAIR_COLUMNS:  # whole rows
        chosen = chosen[: len(chosen) // PAIR_COLUMNS * PAIR_COLUMNS]
    near = np.stack([feature_space.eight_bit(train, [k])[0] for k in found.nearest[chosen]])
    bands = []
    for start in range(0, len(chosen), PAIR_COLUMNS):
        part = slice(start, start + PAIR_COLUMNS)
        bands += [*drawn[chosen[part]], *near[part]]
    path.parent.mkdir(exist_ok=True)
    figures.save_png(path, figures.grid(np.stack(bands), min(PAIR_COLUMNS, len(chosen))))


def table(report: Mapping[str, Any]) -> str:
    """The figures of samples as a Markdown table."""
    rows = {f"samples, {title(row)}": row["metrics"] for row in report["samples"]}
    held_out = report["held_out_data"]["metrics"]
    own = {n: r for n, r in held_out.items() if not n.startswith(likelihood.PREFIX)}
    return results.table({**rows, "held-out data": own})


def title(row: Setting) -> str:
    """The scales of a row: "guidance_scale 1, classifier_scale 4"."""
    return ", ".join(f"{name} {row[name]:g}" for name in SCALES if name in row)


def varied(scales: Sequence[Setting]) -> str:
    """The scale that differs between settings, the last one if both do."""
    return next(n for n in reversed(SCALES) if n in scales[0] and len({s[n] for s in scales}) > 1)


def arrays(source: Source) -> Images:
    """The images and labels of a source; of more than MOST_IMAGES as many, evenly spaced."""
    examples = [source[k] for k in feature_space.evenly_spaced(source, MOST_IMAGES)]
    images = np.stack([e["image"] for e in examples]).astype(np.float32)
    return images * (2 / (source.info.levels - 1)) - 1, np.array([e["label"] for e in examples])


def _numbers(flag: str, given: Sequence[str]) -> list[float]:
    try:
        return [*dict.fromkeys(float(scale) for scale in given)]  # a scale that is there twice
    except ValueError as error:
        raise UserError(f"--{flag}={','.join(given)}: need numbers, 1,2,3") from error

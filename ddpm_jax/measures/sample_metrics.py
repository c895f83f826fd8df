"""Measures of samples at one or several scales of guidance, for `evaluate`."""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from ddpm_jax.build.datasets import dataset
from ddpm_jax.data import evenly_spaced
from ddpm_jax.errors import UserError
from ddpm_jax.measures import (
    distribution_metrics,
    feature_space,
    images_of,
    pixel_metrics,
    real_data,
    reconstructions,
    results,
)
from ddpm_jax.measures.drawer import Drawer, Judges
from ddpm_jax.measures.drawing_cost import Drawn
from ddpm_jax.measures.feature_space import Space
from ddpm_jax.measures.metric import HIGHER, Metric, Needs
from ddpm_jax.measures.pixel_metrics import Images
from ddpm_jax.measures.prompted import PROMPTED
from ddpm_jax.measures.results import Figure, FigureRecord
from ddpm_jax.measures.sample_sets import SampleSet
from ddpm_jax.reporting.report.labels import Label
from ddpm_jax.trained.loaded import Loaded
from ddpm_jax.trained.tasks import Task

Setting = dict[str, float]

SCALES = ("guidance_scale", "classifier_scale", "clip_scale")
JUDGES = {"classifier": "classifier", "clip": "CLIP"}  # what guides by a scale of its own
OTHERWISE = (*SCALES, "batch_size", "grid_size")  # stated elsewhere, or of no effect
REAL = "real"  # of the protocol: what images samples are judged by


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What is measured, of which samples.

    Attributes:
      metrics: those that are of samples.
      scales: at which guidance.
      task: what guides besides.
      num_samples: of a set.
      seed: of the first set; the others have the next ones.
      repeats: sets.
      kid_subsets: as `distribution_metrics.measure` takes it.
      cache: the folder of samples and their features.
      pictures: the PNG that a metric draws beside the result, by its `picture`.
      judges: what judges samples by their prompts, by name.
    """

    metrics: Sequence[Metric]
    scales: Sequence[Setting]
    task: Task
    num_samples: int
    seed: int
    repeats: int
    kid_subsets: int | None
    cache: Path
    pictures: Callable[[str], Path]
    judges: Judges = dataclasses.field(default_factory=dict)

    def of(self, needs: Callable[[Needs], bool]) -> list[Metric]:
        """Those of its metrics whose needs are such."""
        return [metric for metric in self.metrics if needs(metric.needs)]


class Measured(NamedTuple):
    """What was measured of samples.

    Attributes:
      rows: a row for each setting.
      held_out: the same figures of held-out data, as far as they have them.
      labels: what is said of each figure.
    """

    rows: list[dict[str, Any]]
    held_out: dict[str, FigureRecord]
    labels: dict[str, Label]


def settings(
    scales: Mapping[str, Sequence[str]], own: Sequence[float], task: Task
) -> list[Setting]:
    """The scales to measure at: every guidance scale with every classifier's and every CLIP's.

    Without guidance scales the model's own; with a classifier or a CLIP 1 alone. Without theirs 1,
    where there is one.

    Args:
      scales: of `SCALES`, as text.
      own: the model's own guidance scales.
      task: what guides besides.

    Raises:
      UserError: for text that is not a number, or scales of what there is not.
    """
    judges = {name: _numbers(f"{name}_scale", scales[f"{name}_scale"]) for name in JUDGES}
    for name, numbers in judges.items():
        if numbers and name not in task.guides:
            flag = f"{name}_scale"
            raise UserError(
                f"--{flag}={','.join(scales[flag])}: no {JUDGES[name]} to scale; name its run with "
                f"--{name}_workdir"
            )
    guided = {f"{name}_scale": judges[name] or [1.0] for name in JUDGES if name in task.guides}
    default = [1.0] if guided else [*dict.fromkeys(own)]
    every = {"guidance_scale": _numbers("guidance_scale", scales["guidance_scale"]) or default}
    every |= guided
    return [dict(zip(every, one, strict=True)) for one in itertools.product(*every.values())]


def measure(loaded: Drawer, request: Request, space: Space | None) -> Measured:
    """The figures of samples, a row for each setting, and those of the held-out data.

    Args:
      loaded: the model.
      request: what of it.
      space: where distributions are compared; None where none are.
    """
    of_pixels = request.of(lambda needs: needs.pixels)
    of_space = request.of(lambda needs: needs.space and needs is not Needs.RECONSTRUCTED)
    of_reconstructed = request.of(lambda needs: needs is Needs.RECONSTRUCTED)
    of_prompts = request.of(lambda needs: needs.prompted)
    of_drawing = request.of(lambda needs: needs is Needs.DRAWING)
    labels: dict[str, Label] = {}
    held_out: dict[str, Figure] = {}

    def labelled(metric: Metric, figures: dict[str, Figure]) -> dict[str, Figure]:
        labels.update(metric.labels([*figures]))
        return figures

    if of_pixels:
        real = pixel_metrics.real_images(
            real_data.train(loaded), real_data.source(loaded, "validation")
        )
        pixel_metrics.check(of_pixels, real)
        if real.held_out is not None:
            for metric in of_pixels:
                own = functools.partial(pixel_metrics.measure, metric, real, real.held_out)
                held_out |= labelled(metric, _if_enough(metric, own))
    if space is not None and of_reconstructed:
        made = _reconstructed(loaded, of_reconstructed, space, request)
        for metric in of_reconstructed:
            held_out |= labelled(metric, {n: made[n] for n in made if n in metric.figures})
    if space is not None and of_space:
        distribution_metrics.check(of_space, space.reference, space.data)
        if space.held_out is not None:
            for metric in of_space:
                own = functools.partial(_in_space, metric, space, space.held_out, request)
                held_out |= labelled(metric, _if_enough(metric, own))
    prompts = {}
    for metric in of_prompts:
        assert metric.prompts is not None  # `Metric` sees to it
        prompts[metric] = metric.prompts(loaded, request.num_samples)
        held_out |= labelled(metric, _answered(metric, loaded, prompts[metric], None, request))
    classes = loaded.labels(request.num_samples, (), request.task)

    def of_set(setting: Setting, repeat: int) -> dict[str, Figure]:
        options: dict[str, Any] = {**setting}
        seed = request.seed + repeat
        figures: dict[str, Figure] = {}
        if of_pixels or of_space:
            drawing = loaded.drawing(request.num_samples, task=request.task, seed=seed, **options)
            samples = SampleSet(drawing, request.cache, f"{title(setting)}, seed {seed}")
        if of_pixels:
            images = Images(samples.images(), classes)
            first = (setting, repeat) == (request.scales[0], 0)
            for metric in of_pixels:
                path = request.pictures(metric.picture) if first and metric.picture else None
                figures |= labelled(metric, pixel_metrics.measure(metric, real, images, path))
        if space is not None and of_space:
            of_samples = samples.features(space.extractor)
            for metric in of_space:
                figures |= labelled(metric, _in_space(metric, space, of_samples, request))
        drawn_as = Drawn(cast(Loaded, loaded), request.task, options, seed)
        for metric in of_drawing:
            figures |= labelled(metric, metric.named(metric.measure(drawn_as)))
        for metric, prompt in prompts.items():
            drawn_by = PROMPTED[metric.needs].drawing
            drawing = drawn_by(loaded, prompt, seed, task=request.task, **setting)
            caption = f"{metric.name}, {title(setting)}, seed {seed}"
            drawn = SampleSet(drawing, request.cache, caption).images()
            figures |= labelled(metric, _answered(metric, loaded, prompt, drawn, request))
        return figures

    rows = []
    drawn_for = of_pixels or of_space or of_prompts or of_drawing
    for setting in request.scales if drawn_for else ():
        figures = results.over_repeats([of_set(setting, r) for r in range(request.repeats)])
        options: dict[str, Any] = {**setting}
        rows.append(
            {**setting, "nfe": loaded.nfe(task=request.task, **options), "metrics": figures}
        )
    return Measured(rows, {name: figure.record() for name, figure in held_out.items()}, labels)


def _reconstructed(
    loaded: Drawer, metrics: Sequence[Metric], space: Space, request: Request
) -> dict[str, Figure]:
    """The figures of held-out images' reconstructions beside the images themselves."""
    source = real_data.held_out(loaded, metrics[0].name)
    images = images_of.eight_bit(source, evenly_spaced(source, request.num_samples))
    labels = reconstructions.labels_of(cast(Loaded, loaded), source, request.num_samples)
    told = [] if labels is None else labels.tolist()
    made = loaded.reconstruct(images, told)  # type: ignore[attr-defined] # of a kind that has it
    before, after = (
        feature_space.Features(**feature_space.of_images(space.extractor, one))
        for one in (images, made)
    )
    return distribution_metrics.measure(metrics, before, after, seed=request.seed)


def real(loaded: Drawer, metrics: Sequence[Metric]) -> dict[str, Any]:
    """The real images that some metrics of samples or classifiers look at, for the protocol."""
    images = real_data.described(loaded)
    if any(metric.needs.prompted for metric in metrics):
        images["held_out_pairs"] = [*loaded.experiment.config.data.options.get("held_out", ())]
    return images


def _if_enough(metric: Metric, measure: Callable[[], dict[str, Figure]]) -> dict[str, Figure]:
    """The held-out data's own figures; none, with a line, where a few are not enough for them."""
    try:
        return measure()
    except UserError as error:
        if not metric.few:
            raise
        print(f"the held-out data have no such figure of their own: {error}", file=sys.stderr)
        return {}


def _in_space(
    metric: Metric, space: Space, samples: feature_space.Features, request: Request
) -> dict[str, Figure]:
    return distribution_metrics.measure(
        [metric],
        space.reference,
        samples,
        seed=request.seed,
        kid_subsets=request.kid_subsets,
        statistics=space.statistics,
    )


def _answered(
    metric: Metric, loaded: Drawer, prompts: Any, images: np.ndarray | None, request: Request
) -> dict[str, Figure]:
    """The figures of images that were drawn by prompts; None for the real ones that show them."""
    judged = prompts.images if images is None else images
    row = dataset(loaded.experiment.config, loaded.experiment.own)
    answered = PROMPTED[metric.needs].answered(row, prompts, judged, request.judges)
    return metric.named(metric.measure(answered))


def table(report: Mapping[str, Any]) -> str:
    """The figures of samples as a Markdown table."""
    rows = {f"samples, {title(row)}": row["metrics"] for row in report["samples"]}
    held_out, labels = report["held_out_data"]["metrics"], report["figures"]
    own = {n: r for n, r in held_out.items() if not Needs(labels[n]["needs"]).of_model}
    of_training: dict[str, Any] = {}
    if report["protocol"].get("reference", {}).get("split") == "validation":
        names = [name for name in own if Needs(labels[name]["needs"]).space]
        of_training = {name: own.pop(name) for name in names}
    data = {"held-out data": own, "training data": of_training}
    return results.table({**rows, **{name: row for name, row in data.items() if row}})


def traded(report: Mapping[str, Any]) -> tuple[str, str] | None:
    """Two figures of which more is better: what samples cover, and how many of them are right."""
    figures = report["figures"].items()
    better = [name for name, one in figures if one.get("better") == HIGHER]
    return (better[1], better[0]) if len(better) > 1 else None


def title(row: Setting) -> str:
    """The scales of a row: "guidance_scale 1, classifier_scale 4"."""
    return ", ".join(f"{name} {row[name]:g}" for name in SCALES if name in row)


def varied(scales: Sequence[Setting]) -> str:
    """The scale that differs between settings, the last one if both do."""
    return next(n for n in reversed(SCALES) if n in scales[0] and len({s[n] for s in scales}) > 1)


def _numbers(flag: str, texts: Sequence[str]) -> list[float]:
    try:
        return [*dict.fromkeys(float(scale) for scale in texts)]  # a scale that is there twice
    except ValueError as error:
        raise UserError(f"--{flag}={','.join(texts)}: need numbers, 1,2,3") from error

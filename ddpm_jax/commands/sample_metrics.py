"""Measures of samples at one or several scales of guidance, for `evaluate`."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ddpm_jax.commands import attributes
from ddpm_jax.data import Source
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import fidelity
from ddpm_jax.experiment import Loaded, Task

Images = tuple[np.ndarray, np.ndarray]  # float [N, H, W, C] in [-1, 1], labels [N]
Metric = Callable[[Images, Images, Images], float]
Setting = dict[str, float]

# name -> (training data, held-out data, images to judge) -> value
METRICS: dict[str, Metric] = {
    "label_accuracy": lambda train, held_out, x: fidelity.label_accuracy(*train, *x),
    "memorisation": lambda train, held_out, x: fidelity.memorisation_ratio(
        train[0], held_out[0], x[0]
    ),
    "spread": lambda train, held_out, x: fidelity.spread_ratio(*train, *x),
    "recall": lambda train, held_out, x: fidelity.recall(*train, *x),
}
NEEDS_LABELS = ("label_accuracy", "spread", "recall")
SCALES = ("guidance_scale", "classifier_scale")
OTHERWISE = (*SCALES, "batch_size", "grid_size")  # stated elsewhere, or of no effect
MOST_IMAGES = 100_000  # of the real data; drawn shapes have no end


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
    loaded: Loaded,
    metrics: Sequence[str],
    scales: Sequence[Setting],
    task: Task,
    num_samples: int,
    seed: int,
) -> dict[str, Any]:
    """The part of the report that is about samples."""
    by_scale: list[dict[str, float]] = [{} for _ in scales]
    of_data: dict[str, float] = {}
    if of_all := [m for m in metrics if m in METRICS]:
        train, held_out = (arrays(loaded.experiment.source(s)) for s in ("train", "validation"))

        def of_images(images: Images) -> dict[str, float]:
            return {m: METRICS[m](train, held_out, images) for m in of_all}

        of_data |= of_images(held_out)
        labels = loaded.labels(num_samples, (), task)
        for figures, setting in zip(by_scale, scales, strict=True):
            options: dict[str, Any] = {**setting}
            drawn = loaded.sample(num_samples, seed=seed, task=task, **options)
            figures |= of_images((drawn.astype(np.float32) / 127.5 - 1, labels))
    for metric in (m for m in metrics if m in attributes.METRICS):
        asked = attributes.prompts(loaded, metric, num_samples)
        of_data |= attributes.measure(loaded, metric, asked, asked.images)
        for figures, setting in zip(by_scale, scales, strict=True):
            drawn = attributes.sample(loaded, metric, asked, seed, task=task, **setting)
            figures |= attributes.measure(loaded, metric, asked, drawn)
    config = loaded.experiment.config
    return {
        "num_samples": num_samples,
        # All that is set: two protocols never look alike.
        "sampling": {
            k: v for k, v in config.sample.items() if v is not None and k not in OTHERWISE
        },
        "samples": [
            {**setting, **figures} for setting, figures in zip(scales, by_scale, strict=True)
        ],
        "held_out_data": of_data,
    }


def table(report: dict[str, Any]) -> str:
    """The figures of samples as a Markdown table."""
    names = list(report["held_out_data"])
    rows = [(f"samples, {title(row)}", row) for row in report["samples"]]
    rows.append(("held-out data", report["held_out_data"]))
    lines = [f"| | {' | '.join(names)} |", "|" + " --- |" * (len(names) + 1)]
    lines += [f"| {head} | {' | '.join(f'{r[n]:.3f}' for n in names)} |" for head, r in rows]
    return "\n".join(lines)


def title(row: Setting) -> str:
    """The scales of a row: "guidance_scale 1, classifier_scale 4"."""
    return ", ".join(f"{name} {row[name]:g}" for name in SCALES if name in row)


def varied(scales: Sequence[Setting]) -> str:
    """The scale that differs between settings, the last one if both do."""
    return next(n for n in reversed(SCALES) if n in scales[0] and len({s[n] for s in scales}) > 1)


def arrays(source: Source) -> Images:
    """All images and labels of a source."""
    examples = [source[k] for k in range(min(len(source), MOST_IMAGES))]
    images = np.stack([e["image"] for e in examples]).astype(np.float32)
    return images * (2 / (source.info.levels - 1)) - 1, np.array([e["label"] for e in examples])


def _numbers(flag: str, given: Sequence[str]) -> list[float]:
    try:
        return [float(scale) for scale in given]
    except ValueError as error:
        raise UserError(f"--{flag}={','.join(given)}: need numbers, 1,2,3") from error

"""Measures of a trained model: its samples, its likelihood; as a table and as a file."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import experiment, files
from ddpm_jax.commands import attributes, likelihood
from ddpm_jax.data import Source
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import fidelity

Images = tuple[np.ndarray, np.ndarray]  # float [N, H, W, C] in [-1, 1], labels [N]
Metric = Callable[[Images, Images, Images], float]

# name -> (training data, held-out data, images to judge) -> value
METRICS: dict[str, Metric] = {
    "label_accuracy": lambda train, held_out, x: fidelity.label_accuracy(*train, *x),
    "memorisation": lambda train, held_out, x: fidelity.memorisation_ratio(
        train[0], held_out[0], x[0]
    ),
    "spread": lambda train, held_out, x: fidelity.spread_ratio(*train, *x),
}
LIKELIHOOD = "bpd"
NAMES = (*METRICS, *attributes.METRICS, LIKELIHOOD)
NUM_SAMPLES = 500
OTHERWISE = ("guidance_scale", "batch_size", "grid_size")  # stated elsewhere, or of no effect
MOST_IMAGES = 100_000  # of the real data; drawn shapes have no end
NEEDS_LABELS = ("label_accuracy", "spread")


def evaluate(
    workdir: str | None,
    *,
    metrics: Sequence[str],
    num_samples: int | None = None,
    guidance_scales: Sequence[str] = (),
    seed: int = 0,
    step: int | None = None,
    raw_params: bool = False,
    name: str = "",
    num_terms: int | None = None,
) -> dict[str, Any]:
    """Measure samples at each guidance scale, and held-out bits; write DIR/eval/NAME.json.

    Args:
      workdir: of the run.
      metrics: keys of METRICS, of samples; `attributes.METRICS`, of samples that are told what
        held-out images show; and "bpd", bits per pixel of the held-out images, for which nothing
        is drawn.
      num_samples: at each guidance scale; None for 500.
      guidance_scales: as text; none: the run's own, and 1 beside it if that is not 1.
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
    of_samples = [m for m in metrics if m != LIKELIHOOD]
    name = name or ("samples" if of_samples else "likelihood")
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"--name={name}: need letters, digits, '.', '_' or '-'")
    _check_used(metrics, of_samples, num_samples, guidance_scales, num_terms)
    loaded = experiment.load(workdir, step=step, raw_params=raw_params)
    config = loaded.experiment.config
    conditional = config.model.num_classes > 0
    if not conditional and (wrong := [m for m in metrics if m in NEEDS_LABELS]):
        raise UserError(
            f"--metrics={wrong[0]} needs labels, and this model is unconditional or told other "
            f"things: choose among {', '.join(n for n in NAMES if n not in NEEDS_LABELS)}"
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
    if of_samples:
        scales = _scales(guidance_scales, config.sample.guidance_scale)
        report |= _of_samples(loaded, of_samples, scales, num_samples or NUM_SAMPLES, seed)
    if LIKELIHOOD in metrics:
        source = loaded.experiment.source("validation")
        images, _ = _arrays(source)
        report["likelihood"] = likelihood.bits_per_pixel(
            loaded, images, source.info.levels, seed=seed, num_terms=num_terms
        )
    folder = Path(workdir) / "eval"
    folder.mkdir(exist_ok=True)
    files.write_json(folder / f"{name}.json", report)
    return report


def _check_used(
    metrics: Sequence[str],
    of_samples: Sequence[str],
    num_samples: int | None,
    guidance_scales: Sequence[str],
    num_terms: int | None,
) -> None:
    """Raises UserError for a flag that none of the metrics reads."""
    if num_samples is not None and num_samples < 1:
        raise UserError(f"--num_samples={num_samples}: need at least 1")
    for flag, value in {"num_samples": num_samples, "guidance_scale": guidance_scales}.items():
        if value and not of_samples:
            raise UserError(f"--{flag} is of samples, and --metrics=bpd draws none: leave it out")
    if num_terms is not None and LIKELIHOOD not in metrics:
        raise UserError(f"--num_terms={num_terms} is of --metrics=bpd: add it, or leave this out")


def _of_samples(
    loaded: experiment.Loaded,
    metrics: Sequence[str],
    scales: Sequence[float],
    num_samples: int,
    seed: int,
) -> dict[str, Any]:
    """The part of the report that is about samples."""
    by_scale: list[dict[str, float]] = [{} for _ in scales]
    of_data: dict[str, float] = {}
    if of_all := [m for m in metrics if m in METRICS]:
        train, held_out = (_arrays(loaded.experiment.source(s)) for s in ("train", "validation"))

        def measure(images: Images) -> dict[str, float]:
            return {m: METRICS[m](train, held_out, images) for m in of_all}

        of_data |= measure(held_out)
        for figures, scale in zip(by_scale, scales, strict=True):
            drawn = loaded.sample(num_samples, seed=seed, guidance_scale=scale)
            figures |= measure((drawn.astype(np.float32) / 127.5 - 1, loaded.labels(num_samples)))
    for metric in (m for m in metrics if m in attributes.METRICS):
        asked = attributes.prompts(loaded, metric, num_samples)
        of_data |= attributes.measure(loaded, metric, asked, asked.images)
        for figures, scale in zip(by_scale, scales, strict=True):
            drawn = attributes.sample(loaded, asked, scale, seed)
            figures |= attributes.measure(loaded, metric, asked, drawn)
    config = loaded.experiment.config
    return {
        "num_samples": num_samples,
        # All that is set: two protocols never look alike.
        "sampling": {
            k: v for k, v in config.sample.items() if v is not None and k not in OTHERWISE
        },
        "samples": [
            {"guidance_scale": s, **figures} for s, figures in zip(scales, by_scale, strict=True)
        ],
        "held_out_data": of_data,
    }


def table(report: dict[str, Any]) -> str:
    """The figures of a report as lines of Markdown tables."""
    parts = []
    if "samples" in report:
        parts.append(_table_of_samples(report))
    if "likelihood" in report:
        parts.append(likelihood.table(report["likelihood"]))
    return "\n\n".join(parts)


def _table_of_samples(report: dict[str, Any]) -> str:
    names = list(report["held_out_data"])
    rows = [(f"samples, guidance_scale {r['guidance_scale']:g}", r) for r in report["samples"]]
    rows.append(("held-out data", report["held_out_data"]))
    lines = [f"| | {' | '.join(names)} |", "|" + " --- |" * (len(names) + 1)]
    lines += [f"| {title} | {' | '.join(f'{r[n]:.3f}' for n in names)} |" for title, r in rows]
    return "\n".join(lines)


def _scales(given: Sequence[str], own: float) -> list[float]:
    if not given:
        return [own] if own == 1 else [own, 1.0]
    try:
        return [float(scale) for scale in given]
    except ValueError as error:
        raise UserError(f"--guidance_scale={','.join(given)}: need numbers, 1,2,3") from error


def _arrays(source: Source) -> Images:
    examples = [source[k] for k in range(min(len(source), MOST_IMAGES))]
    images = np.stack([e["image"] for e in examples]).astype(np.float32)
    return images * (2 / (source.info.levels - 1)) - 1, np.array([e["label"] for e in examples])

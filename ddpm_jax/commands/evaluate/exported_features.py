"""Measures of features that another program exported, for `evaluate`: nothing is drawn here."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import features
from ddpm_jax.evaluation.features import Exported
from ddpm_jax.measures import distribution_metrics, metric_table, results
from ddpm_jax.measures.metric import Metric, Sizes
from ddpm_jax.reporting.report.labels import Label


def evaluate(
    workdir: str | None,
    samples: str | None,
    reference: str | None,
    *,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    kid_subsets: int | None = None,
    name: str = "",
) -> dict[str, Any]:
    """Measure features that another program exported; write DIR/eval/NAME.json.

    Args:
      workdir: of the run, or any folder.
      samples, reference, metrics, seed, kid_subsets: as in `measure`; by default those
        that need features alone.
      name: of the file; "" for "exported".

    Raises:
      UserError: as `measure`, or for a missing argument.
    """
    began = time.monotonic()
    name = results.file_name(name or "exported")
    required = {"workdir": workdir, "sample_features": samples, "reference_features": reference}
    for flag, value in required.items():
        if not value:
            raise UserError(f"--{flag} is missing: exported features need {', '.join(required)}")
    report: dict[str, Any] = {"format": results.FORMAT} | measure(
        str(samples),
        str(reference),
        metrics,
        seed=seed,
        kid_subsets=kid_subsets,
    )
    results.write(Path(str(workdir)) / "eval" / f"{name}.json", report, began)
    return report


def measure(
    samples: str,
    reference: str,
    metrics: Sequence[str] | None,
    *,
    seed: int,
    kid_subsets: int | None,
) -> dict[str, Any]:
    """What is about samples in a result: its protocol, rows and held-out data, of which none.

    Args:
      samples, reference: files as `features.from_file` reads them, .npz or .safetensors.
      metrics: names of those in a space of features; None for the distances.
      seed: of groups and subsets.
      kid_subsets: as in `distribution_metrics.measure`.

    Raises:
      UserError: for a file of another kind, two that are of different extractors, other
        metrics, or too few features.
    """
    selected = _metrics(metrics)
    drawn, data = _read("sample_features", samples), _read("reference_features", reference)
    # What only one of them has is needed of neither, or `check` names it.
    both = [n for n, v in drawn.protocol.items() if None not in (v, data.protocol[n])]
    if any(drawn.protocol[name] != data.protocol[name] for name in both):
        raise UserError(
            f"--sample_features={samples} and --reference_features={reference} are not of one "
            f"extractor: {drawn.protocol} and {data.protocol}"
        )
    distribution_metrics.check(selected, data.features, drawn.features)
    figures: dict[str, results.Figure] = {}
    labels: dict[str, Label] = {}
    for metric in selected:
        own = distribution_metrics.measure(
            [metric], data.features, drawn.features, seed=seed, kid_subsets=kid_subsets
        )
        figures |= own
        labels |= metric.labels([*own])
    counts = len(drawn.features.pooled), len(data.features.pooled)
    sizes = Sizes(*counts, kid_subsets)
    return {
        "protocol": {
            "num_samples": counts[0],
            "seed": seed,
            "extractor": {"name": "exported", **drawn.protocol},
            "reference": {"file": Path(reference).name, "num": counts[1], "blake3": data.digest},
            "metrics": distribution_metrics.protocol(selected, sizes),
            **metric_table.sources(selected),
        },
        "run": {"sample_features": Path(samples).name, "blake3": drawn.digest},
        "samples": [{"metrics": {name: figure.record() for name, figure in figures.items()}}],
        "held_out_data": {"metrics": {}},
        "figures": results.labelled(labels, figures),
    }


def _metrics(names: Sequence[str] | None) -> list[Metric]:
    """The metrics of these names, of features; None for the distances."""
    if names is None:
        return metric_table.distances()
    of_space = [one.name for one in metric_table.METRICS.values() if one.needs.space]
    selected = metric_table.named(names, of_space)
    if wrong := [one.name for one in selected if not one.needs.space]:
        raise UserError(
            f"--metrics={wrong[0]} is not of features; of exported ones: {', '.join(of_space)}"
        )
    return selected


def _read(flag: str, path: str) -> Exported:
    try:
        return features.from_file(path)
    except ValueError as error:
        raise UserError(f"--{flag}: {error}") from error


def table(report: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    return results.table({"exported features": report["samples"][0]["metrics"]})

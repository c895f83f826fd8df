"""Measures of a model itself, for which nothing is drawn, for `evaluate`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.measures import real_data, results
from ddpm_jax.measures.metric import Metric, OfModel
from ddpm_jax.trained.loaded import Loaded


def add(
    report: dict[str, Any],
    loaded: Loaded,
    metric: Metric,
    seed: int,
    flags: Mapping[str, Any],
    beside: Callable[[str], Path] | None = None,
) -> None:
    """Add what a metric says of a model to a result: its section, its figures, its protocol.

    Args:
      report: the result.
      loaded: the model.
      metric: one that needs nothing drawn.
      seed, beside: as of `OfModel`.
      flags: those of the command that single metrics read, as of `OfModel`.

    Raises:
      UserError: for data without held-out images, or what cannot be measured.
    """
    source = real_data.held_out(loaded, metric.name)
    try:
        details = metric.measure(OfModel(loaded, source, seed, beside=beside, **_of_model(flags)))
    except ValueError as error:
        raise UserError(f"--metrics={metric.name}: {error}") from error
    report[metric.section] = details.content
    figures = {f"{metric.name}_{name}": one.record() for name, one in details.figures.items()}
    report["held_out_data"]["metrics"] |= figures
    report["figures"] |= results.labelled(metric.labels([*figures]), figures or [metric.name])
    if details.protocol:
        report["protocol"][metric.section] = details.protocol


def _of_model(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if name in OfModel._fields}

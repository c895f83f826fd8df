"""Rows of evaluations: of which run, sampled how, and how a figure is written."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ddpm_jax.reporting.report.axes import number
from ddpm_jax.reporting.report.evaluations import Evaluation, Measured, Row
from ddpm_jax.reporting.report.html import short
from ddpm_jax.reporting.report.labels import Label, Labels, arrow
from ddpm_jax.reporting.report.runs import Run

MOST_DIGITS = 8  # after the point


class Result(NamedTuple):
    """A row of an evaluation, with the run it is of (by its place) and the evaluation.

    Attributes:
      sampled: of samples; else of how the model reads held-out images.
    """

    place: int
    run: Run
    evaluation: Evaluation
    row: Row
    sampled: bool = True


def results(runs: Sequence[Run]) -> list[Result]:
    """Every row of every evaluation."""
    return [
        Result(k, run, evaluation, row, sampled)
        for k, run in enumerate(runs)
        for evaluation in run.evaluations.evaluations
        for rows, sampled in ((evaluation.rows, True), (_of_model(evaluation), False))
        for row in rows
    ]


def of_data(evaluation: Evaluation) -> dict[str, Measured]:
    """What is said of held-out data themselves, the same for every model."""
    return {n: m for n, m in evaluation.held_out.items() if not _is_of_model(evaluation, n)}


def _of_model(evaluation: Evaluation) -> list[Row]:
    """What is said of held-out images by the model: their likelihood, how a classifier reads."""
    own = {n: m for n, m in evaluation.held_out.items() if _is_of_model(evaluation, n)}
    return [*([Row({}, own)] if own else []), *evaluation.by_time]


def _is_of_model(evaluation: Evaluation, name: str) -> bool:
    return name in evaluation.labels and evaluation.labels[name].of_model


def labels_of(evaluations: Iterable[Evaluation]) -> dict[str, Label]:
    """What is said of the figures of several evaluations."""
    return {name: label for one in evaluations for name, label in one.labels.items()}


def titled(name: str, labels: Labels) -> str:
    """A figure's name, with an arrow to where it is better."""
    return short(name) + arrow(name, labels)


def nfe(row: Row) -> float | None:
    """Network evaluations for a sample, if recorded."""
    count = row.setting.get("nfe")
    if isinstance(count, bool) or not isinstance(count, int | float) or not 0 < count < 1e9:
        return None
    return float(count)


def setting(row: Row) -> str:
    """All of a row's setting but its NFE: "guidance_scale 2"."""
    rest = {name: value for name, value in row.setting.items() if name != "nfe"}
    return ", ".join(f"{short(name)} {_text(value)}" for name, value in rest.items())


def sampler(evaluation: Evaluation) -> str:
    """The sampler and its order, if recorded: "dpm_solver_pp, order 3"."""
    sampling = evaluation.protocol.get("sampling")
    if not isinstance(sampling, dict):
        return ""
    order = sampling.get("order")
    text = short(sampling.get("sampler", "without a sampler"))
    return f"{text}, order {short(order)}" if order is not None else text


def samplings(evaluations: Sequence[Evaluation]) -> dict[int, str]:
    """{id of an evaluation: its sampler}, with those fields by which one sampler's differ."""
    groups: dict[str, list[Evaluation]] = {}
    for one in evaluations:
        groups.setdefault(sampler(one), []).append(one)
    texts = {}
    for name, group in groups.items():
        every = [_options(one) for one in group]
        fields = sorted({field for options in every for field in options})
        varied = [f for f in fields if len({repr(options.get(f)) for options in every}) > 1]
        for one, options in zip(group, every, strict=True):
            settings = [f"{short(f, 40)} {_text(options[f])}" for f in varied if f in options]
            texts[id(one)] = ", ".join([name, *settings])
    return texts


def described(evaluation: Evaluation, row: Row, sampled: bool = True) -> str:
    """What a row is of: "ddim, NFE 50, guidance_scale 2, step 1,500"."""
    step, calls = evaluation.run.get("checkpoint_step"), nfe(row)
    parts = [
        sampler(evaluation) if sampled else "held-out images",
        f"NFE {calls:g}" if calls is not None else "",
        setting(row),
        f"step {step:,}" if isinstance(step, int) else "",
    ]
    return ", ".join(part for part in parts if part)


def figures(measured: Measured) -> tuple[str, str]:
    """A value and its interval, with as many digits as it needs: "0.600", "0.545 to 0.656"."""
    value, low, high = measured.value, measured.low, measured.high
    if value is None:
        return "undefined", ""
    if low is None or high is None:
        return number(value), ""
    digits = _digits(value, high - low)
    if digits is None:
        return number(value), f"{number(low)} to {number(high)}"
    return f"{value:,.{digits}f}", f"{low:,.{digits}f} to {high:,.{digits}f}"


def _digits(value: float, width: float) -> int | None:
    """After the point: two of the interval's width, three of the value unless that is tiny."""
    if not 1e-12 < width < 1e6 or abs(value) >= 1e6:
        return None
    digits = 1 - math.floor(math.log10(width))
    if value:
        digits = max(digits, min(3, 2 - math.floor(math.log10(abs(value)))))
    return max(digits, 0) if digits <= MOST_DIGITS else None


def _options(evaluation: Evaluation) -> dict[str, Any]:
    sampling = evaluation.protocol.get("sampling")
    fields = sampling if isinstance(sampling, dict) else {}
    return {n: v for n, v in fields.items() if n not in ("sampler", "order", "num_steps")}


def _text(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return number(value) if is_number and abs(value) < 1e300 else short(value)

"""Metrics and extractors that a user wrote: "package.module:name" on the command line."""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from ddpm_jax.config import own_code
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import Extractor, Features
from ddpm_jax.measures.metric import Metric, Needs
from ddpm_jax.measures.pixel_metrics import Judged
from ddpm_jax.measures.results import Figure

METRIC_TAKES = ("samples", "real")
LABELS = ("labels", "real_labels")
EXTRACTOR_TAKES = ("images",)


def metric(name: str) -> Metric:
    """The metric that "package.module:name" leads to: a `Metric`, or a function as it describes.

    Raises:
      UserError: for a module or name that is not there, or what can be neither.
    """
    part, digest = _part("--metrics", name)
    if isinstance(part, Metric):
        return dataclasses.replace(part, name=name, source=digest)
    labelled = _check("--metrics", name, part, METRIC_TAKES, LABELS)

    def measure(judged: Judged) -> Figure:
        of_labels = {"labels": judged.images.labels, "real_labels": judged.real.train.labels}
        value = part(
            judged.images.images,
            judged.real.train.images,
            **{argument: of_labels[argument] for argument in labelled},
        )
        try:
            return Figure(float(value))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"--metrics={name} gave {_shape(value)}: need a single number"
            ) from error

    needs = Needs.LABELS if labelled else Needs.PIXELS
    label = name.partition(":")[2]
    return Metric(name, label, "", needs, measure, few=True, source=digest)


def extractor(name: str) -> Extractor:
    """The extractor that "package.module:name" leads to.

    An `evaluation.features.Extractor`, or a function (images uint8 [N, H, W, C]) -> [N, D]. In a
    result it is named by the digest of its source.

    Raises:
      UserError: as `metric`.
    """
    part, digest = _part("--extractor", name)
    if isinstance(part, Extractor):
        return part._replace(name=name, protocol={**part.protocol, "source": digest})
    _check("--extractor", name, part, EXTRACTOR_TAKES)

    def apply(images: np.ndarray) -> Features:
        rows = part(images)
        array = np.asarray(rows)
        if array.ndim != 2 or len(array) != len(images) or array.dtype.kind not in "fiu":
            raise ValueError(f"it gave {_shape(rows)} for {len(images)} images: need floats [N, D]")
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError("its features are not finite")
        return Features(array)

    return Extractor(name, {"source": digest}, apply)


def _part(flag: str, name: str) -> tuple[Any, str]:
    """What the name leads to, and the digest of the file that holds its source."""
    part = own_code.imported(flag, name)
    try:
        path = inspect.getsourcefile(inspect.unwrap(part))
    except TypeError:  # a record, or a callable that is not a function
        path = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    try:
        digest = blake3(Path(path or "").read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"{flag}={name}: its source cannot be read, and a result must name it; put it into a "
            "file"
        ) from error
    return part, digest


def _check(
    flag: str,
    name: str,
    part: Callable[..., Any],
    takes: Sequence[str],
    by_name: Sequence[str] = (),
) -> list[str]:
    """Which of `by_name` it asks for. Raises UserError for what cannot be called in this way."""
    called = f"{name.partition(':')[2]}({', '.join(takes)})"
    if not callable(part):
        raise UserError(f"{flag}={name} is {type(part).__name__}, not callable: need {called}")
    try:
        parameters = inspect.signature(part).parameters
    except (TypeError, ValueError) as error:
        raise UserError(f"{flag}={name} has no signature: need {called}") from error
    keywords = [argument for argument in by_name if argument in parameters]
    positional = [
        p.name
        for p in parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in keywords
    ]
    several = any(p.kind == p.VAR_POSITIONAL for p in parameters.values())
    if len(positional) < len(takes) and not several:
        missing = takes[len(positional)]
        raise UserError(f"{flag}={name}: takes no argument {missing}; it is called as {called}")
    served = {*positional[: len(takes)], *keywords}
    for p in parameters.values():
        variadic = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if p.name not in served and p.default is p.empty and not variadic:
            also = f", with {' and '.join(by_name)} where it has them" if by_name else ""
            raise UserError(
                f"{flag}={name}: nothing is given to its argument {p.name}; it is called as "
                f"{called}{also}: give {p.name} a default"
            )
    return keywords


def _shape(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"an array of shape {shape}" if shape else f"{type(value).__name__}"

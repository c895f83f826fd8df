"""What a page tells of a run, and how much of it a workdir's files give."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.reporting.report import curves, evaluations, folders
from ddpm_jax.reporting.report.labels import Labels, ordered

EVALUATED = "evaluation_"  # before the name of a figure, in metrics.jsonl


class ScheduleCurve(NamedTuple):
    """A path from data to noise: alpha and sigma at times t in [0, 1], float64 [N] each."""

    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray


class LossByTime(NamedTuple):
    """The loss on held-out images by t, float64 [N] each: a mean in each interval of t.

    Attributes:
      t: the mean of the times drawn in the interval.
      mean, standard_error: of the loss.
      num: draws in all.
    """

    t: np.ndarray
    mean: np.ndarray
    standard_error: np.ndarray
    num: int


class Drawn(NamedTuple):
    """What was drawn with the network of a checkpoint; a sentence for what was not, and why.

    Attributes:
      step: of the checkpoint.
      parameters: how many the network has.
      curve: of its schedule, which may be learned; a text for a kind that has none.
      film: uint8 [N, frames, H, W, C], from noise to image.
      film_caption: how it was drawn.
      losses: of the moving average.
    """

    step: int
    parameters: int
    curve: ScheduleCurve | str
    film: np.ndarray | str
    film_caption: str
    losses: LossByTime | str


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run. What is a text in place of something says why that is not there.

    Attributes:
      name: of the run on this page, unlike the others'.
      workdir: where it lies.
      config: {dotted name: value}.
      attempts: entries of the manifest, oldest first.
      curve: of its schedule.
      drawn: what needs the network.
      metrics: curves by step.
      samples: pictures of samples with their steps, in the order of training.
      nearest: pictures of samples and their nearest training images.
      evaluations: what measured it.
      labels: what is said of the figures that are known by name.
      beside: pictures that lie beside results, (evaluation, what is seen, file), by evaluation.
      no_images: why a run of its kind draws no images; "" for one that does.
      trade_offs: pictures of what a scale of guidance trades, by the name of the evaluation.
    """

    name: str
    workdir: pathlib.Path
    config: Mapping[str, Any]
    attempts: Sequence[Mapping[str, Any]] | str
    curve: ScheduleCurve | str
    drawn: Drawn | str
    metrics: curves.Metrics | str
    samples: Sequence[tuple[str, pathlib.Path]]
    nearest: Sequence[pathlib.Path]
    evaluations: evaluations.EvaluationFiles
    labels: Labels = dataclasses.field(default_factory=dict)
    trade_offs: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    beside: Sequence[tuple[str, str, pathlib.Path]] = ()
    no_images: str = ""


def trade_offs(
    folder: pathlib.Path, contents: evaluations.EvaluationFiles
) -> dict[str, pathlib.Path]:
    """The pictures DIR/eval/NAME.png of evaluations at several scales, by NAME."""
    names = {one.name for one in contents.evaluations}
    return {p.stem: p for p in folders.listed(folder, ".png") if p.stem in names}


def beside(
    folder: pathlib.Path, contents: evaluations.EvaluationFiles, shows: Mapping[str, str]
) -> list[tuple[str, str, pathlib.Path]]:
    """The pictures DIR/eval/NAME_PICTURE.png of evaluations, as `Run.beside` has them.

    Args:
      folder: DIR/eval.
      contents: of it.
      shows: {picture: what is seen}, in the order in which they are shown.
    """
    there = {path.name: path for path in folders.listed(folder, ".png")}
    return [
        (one.name, text, there[name])
        for one in contents.evaluations
        for picture, text in shows.items()
        if (name := f"{one.name}_{picture}.png") in there
    ]


def distances(run: Run) -> list[tuple[str, str]]:
    """(curve, label) of what samples drawn on the way were measured by."""
    if isinstance(run.metrics, str):
        return []
    names = [n.removeprefix(EVALUATED) for n in run.metrics.curves if n.startswith(EVALUATED)]
    labels = run.labels
    return [
        (EVALUATED + name, labels[name].label if name in labels else name)
        for name in ordered(names, labels)
    ]


def metrics(workdir: pathlib.Path) -> curves.Metrics | str:
    """The curves of a workdir's metrics.jsonl, or why there are none."""
    try:
        logged = curves.read(workdir / "metrics.jsonl")
    except FileNotFoundError:
        return "There is no metrics.jsonl, so nothing is known of its training."
    except (OSError, ValueError) as error:
        return f"metrics.jsonl cannot be read: {getattr(error, 'strerror', None) or error}."
    return logged if logged.curves else "metrics.jsonl holds no figures yet."


def samples(workdir: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """(caption, file) of the pictures in DIR/samples, in the order of the steps they name."""
    entries = []
    for path in folders.listed(workdir / "samples", ".png"):
        digits = re.search(r"(\d{1,18})$", path.stem)
        step = int(digits[1]) if digits else -1
        caption = f"step {step:,}" if path.stem.startswith("step_") and digits else path.stem
        entries.append((step, path.name, caption, path))
    return [(caption, path) for *_, caption, path in sorted(entries)]


def names(workdirs: Sequence[pathlib.Path]) -> list[str]:
    """The shortest ends of these paths that tell them apart, the last folder's name at least."""
    parts = [path.parts for path in workdirs]
    for length in range(1, max(map(len, parts)) + 1):
        endings = ["/".join(p[-length:]) for p in parts]
        if len(set(endings)) == len(endings):
            return endings
    return [str(path) for path in workdirs]

"""What `evaluate` is asked for must fit together: said before anything is drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.build import class_names, conditioning
from ddpm_jax.build.datasets import dataset
from ddpm_jax.config import config_files
from ddpm_jax.data import fingerprint
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Loaded, Task
from ddpm_jax.measures import attributes, distribution_metrics, manifest, pixel_metrics
from ddpm_jax.trained import tasks

LIKELIHOOD = "bpd"
ACCURACY = "accuracy"
NAMES = (
    *distribution_metrics.METRICS,
    *pixel_metrics.METRICS,
    *attributes.METRICS,
    LIKELIHOOD,
    ACCURACY,
)


def default_metrics(workdir: str) -> list[str]:
    """What is measured of a run if nothing else is asked for: of pixels, which takes seconds.

    Of samples that have classes the four that say whether they show them; of others whether they
    copy the training set, and what they show of what they were told.
    """
    config = config_files.read(workdir)
    if config is None:  # `experiment.load` says what is missing
        return [pixel_metrics.MEMORISATION]
    if config.model.name == "classifier":
        return [ACCURACY]
    if config.model.num_classes:
        return ["label_accuracy", pixel_metrics.MEMORISATION, "spread", "class_recall"]
    told = dataset(config).describe is not None and conditioning.values(config)
    return [*([attributes.ATTRIBUTES] if told else []), pixel_metrics.MEMORISATION]


def check_kind(loaded: Loaded, metrics: Sequence[str]) -> None:
    """Raises UserError for a classifier's metric of a diffusion model, or the other way round."""
    draws = loaded.experiment.draws_images
    for metric in metrics:
        if draws and metric == ACCURACY:
            raise UserError(f"--metrics={metric}: is of classifiers; this run is a diffusion model")
        if not draws and metric != ACCURACY:
            raise UserError(f"--metrics={metric}: this run is a classifier; it has {ACCURACY}")


def check_classes(loaded: Loaded, workdir: str) -> None:
    """Raises UserError for a run whose labels meant other classes than its data have today.

    Earlier versions kept no names, and numbered folders 1, 2, 10 in the order 1, 10, 2.
    """
    c = loaded.experiment.config
    if c.data.class_names or not c.model.num_classes:
        return
    source = loaded.experiment.source("train")
    names = source.info.class_names
    there = (manifest.last(Path(workdir)) or {"data": {}})["data"].get("train")
    moved = all(name.isdecimal() for name in names) and [*names] != sorted(names)
    if moved and there is not None and there != fingerprint(source):
        raise UserError(
            f"--workdir={workdir}: an earlier version trained this run, where the classes "
            f"{class_names.listed(names)} were in the order {class_names.listed(sorted(names))}, "
            "or the data have changed: its labels mean other classes; train it again"
        )


def check_labels(loaded: Loaded, metrics: Sequence[str], task: Task) -> None:
    """Raises UserError for metrics of labels where samples have none."""
    labelled = tasks.num_classes(loaded.experiment.config, task) > 0
    if not labelled and (wrong := [m for m in metrics if m in pixel_metrics.OF_LABELS]):
        others = [n for n in NAMES if n not in pixel_metrics.OF_LABELS]
        raise UserError(
            f"--metrics={wrong[0]} needs labels, and this model is unconditional or told other "
            f"things: choose among {', '.join(others)}"
        )


def check_space(metrics: Sequence[str], of_space: Sequence[str], flags: Mapping[str, Any]) -> None:
    """Raises UserError for a flag of the space of features that nothing uses, or a bad number."""
    for flag, value in flags.items():
        if value is not None and not of_space:
            known = ", ".join(distribution_metrics.METRICS)
            raise UserError(
                f"--{flag}={value} is of {known}, and --metrics={','.join(metrics)} has none of "
                "them: leave it out"
            )
        if isinstance(value, int) and value < 2:
            raise UserError(f"--{flag}={value}: need at least 2")
    export = flags["export_reference"]
    if export and Path(export).suffix != ".npz":
        raise UserError(f"--export_reference={export}: need a file F.npz")
    if flags["kid_subsets"] is not None and "kid" not in metrics:
        raise UserError("--kid_subsets is of --metrics=kid: add it, or leave this out")


def check_used(
    metrics: Sequence[str],
    of_samples: Sequence[str],
    flags: Mapping[str, Any],
    num_terms: int | None,
) -> None:
    """Raises UserError for a flag that none of the metrics reads."""
    for flag in ("num_samples", "repeats"):
        if flags[flag] is not None and flags[flag] < 1:
            raise UserError(f"--{flag}={flags[flag]}: need at least 1")
    for flag, value in flags.items():
        if value not in (None, (), []) and not of_samples:
            drawn = ",".join(metrics)
            raise UserError(
                f"--{flag} is of samples, and --metrics={drawn} draws none: leave it out"
            )
    if num_terms is not None and LIKELIHOOD not in metrics:
        raise UserError(f"--num_terms={num_terms} is of --metrics=bpd: add it, or leave this out")

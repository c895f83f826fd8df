"""What `evaluate` is asked for must fit together: said before anything is drawn."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.build import class_names
from ddpm_jax.build.kinds import KINDS
from ddpm_jax.config import config_files
from ddpm_jax.config.own_code import Own
from ddpm_jax.data import fingerprint
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Loaded, Task
from ddpm_jax.measures import (
    attributes,
    captions,
    image_captions,
    manifest,
    metric_table,
    real_data,
    reconstructions,
)
from ddpm_jax.measures.drawer import Drawer
from ddpm_jax.measures.metric import Metric, Needs
from ddpm_jax.measures.metric_table import METRICS
from ddpm_jax.trained import tasks


def default_metrics(workdir: str, own: Own) -> list[str]:
    """What is measured of a run if nothing else is asked for: of pixels, which takes seconds.

    Of a classifier how it reads; of samples that have classes whether they show them, of others
    what they show of what they were told; and whether they copy the training set. Of an
    autoencoder that is no VAE nothing is drawn. `own` holds the run's own parts.
    """
    config = config_files.read(workdir)
    if config is None:  # `experiment.load` says what is missing
        needs = {Needs.PIXELS}
    else:
        kind = KINDS[config.kind]
        needs = {Needs[name] for name in kind.measures}
        if kind.why_no_images(config):
            needs = {one for one in needs if one.of_model}
        needs -= {Needs.PROBE} if kind.reads_text(config) else {Needs.PAIRS, Needs.CLASSES}
        takes_labels = bool(config.model.get("num_classes"))
        needs -= {Needs.ATTRIBUTES} if takes_labels else {Needs.LABELS}
        if Needs.ATTRIBUTES in needs and not attributes.applies(config, own):
            needs -= {Needs.ATTRIBUTES}
        if Needs.CAPTIONS in needs and not captions.applies(config, own):
            needs -= {Needs.CAPTIONS}
        if Needs.TRUE_CAPTIONS in needs and not image_captions.agrees(config, own):
            needs -= {Needs.TRUE_CAPTIONS}
        if Needs.LATENT_BOUND in needs and not reconstructions.has_law(config, own):
            # A codec: nothing holds its latents to the law that they would be drawn from.
            needs = {one for one in needs if one.of_model} - {Needs.LATENT_BOUND}
    return [metric.name for metric in METRICS.values() if metric.default and metric.needs in needs]


def metrics(workdir: str) -> list[str]:
    """The names of the metrics that a run can be asked for; of a folder without a run all."""
    config = config_files.read(workdir)
    return [*METRICS] if config is None else metric_table.of_kind(KINDS[config.kind])


def check_kind(loaded: Drawer, metrics: Sequence[Metric]) -> None:
    """Raises UserError for a metric of another kind of run."""
    for metric in metrics:
        metric_table.check_kind(metric, loaded.experiment.kind)


def check_classes(loaded: Loaded, workdir: str) -> None:
    """Raises UserError for a run whose labels meant other classes than its data have today.

    Earlier versions kept no names, and numbered folders 1, 2, 10 in the order 1, 10, 2.
    """
    c = loaded.experiment.config
    if c.data.class_names or not c.model.get("num_classes"):
        return
    source = real_data.train(loaded)
    names = source.info.class_names
    recorded = (manifest.last(Path(workdir)) or {"data": {}})["data"].get("train")
    moved = all(name.isdecimal() for name in names) and [*names] != sorted(names)
    if moved and recorded is not None and recorded != fingerprint(source):
        raise UserError(
            f"--workdir={workdir}: an earlier version trained this run, where the classes "
            f"{class_names.listed(names)} were in the order {class_names.listed(sorted(names))}, "
            "or the data have changed: its labels mean other classes; train it again"
        )


def check_labels(loaded: Drawer, metrics: Sequence[Metric], task: Task) -> None:
    """Raises UserError for metrics of labels where samples have none."""
    if tasks.num_classes(loaded.experiment.config, task):
        return
    if wrong := [metric for metric in metrics if metric.needs is Needs.LABELS]:
        others = _names(one for one in METRICS.values() if one.needs is not Needs.LABELS)
        raise UserError(
            f"--metrics={wrong[0].name} needs labels, and this model is unconditional or takes "
            f"other conditions: choose among {others}"
        )


def check_clip(metrics: Sequence[Metric], task: Task) -> None:
    """Raises UserError for metrics whose samples have no prompt, where a CLIP is to guide them."""
    if task.clip is None:
        return
    if wrong := [metric for metric in metrics if metric.needs is not Needs.CAPTIONS]:
        others = _names(one for one in METRICS.values() if one.needs is Needs.CAPTIONS)
        raise UserError(
            f"--metrics={wrong[0].name} draws without prompts, which leaves the CLIP of "
            f"--clip_workdir nothing to steer to: choose among {others}"
        )


def check_space(metrics: Sequence[Metric], flags: Mapping[str, Any]) -> None:
    """Raises UserError for a flag of the space of features that nothing uses, or a bad number."""
    for flag, value in flags.items():
        if value is not None and not any(metric.needs.space for metric in metrics):
            takers = _names(one for one in METRICS.values() if one.needs.space)
            raise UserError(
                f"--{flag}={value} applies only to {takers}, and --metrics="
                f"{_names(metrics, ',')} has none of them: leave it out"
            )
        if isinstance(value, int) and value < 2:
            raise UserError(f"--{flag}={value}: need at least 2")
    export = flags["export_reference"]
    if export and Path(export).suffix != ".npz":
        raise UserError(f"--export_reference={export}: need a file F.npz")


def check_flags(metrics: Sequence[Metric], flags: Mapping[str, Any]) -> None:
    """Raises UserError for a flag of single metrics, none of which is measured."""
    for flag, value in flags.items():
        if value is not None and not any(flag in metric.flags for metric in metrics):
            takers = _names(one for one in METRICS.values() if flag in one.flags)
            raise UserError(
                f"--{flag}={value} applies only to --metrics={takers}: add it, or leave this out"
            )


def check_used(metrics: Sequence[Metric], flags: Mapping[str, Any]) -> None:
    """Raises UserError for a flag of samples where none are drawn, or a bad number."""
    for flag in ("num_samples", "repeats"):
        if flags[flag] is not None and flags[flag] < 1:
            raise UserError(f"--{flag}={flags[flag]}: need at least 1")
    for flag, value in flags.items():
        if value not in (None, (), []) and all(metric.needs.of_model for metric in metrics):
            raise UserError(
                f"--{flag} applies only to samples, and --metrics="
                f"{_names(metrics, ',')} draws none: leave it out"
            )


def _names(metrics: Iterable[Metric], separator: str = ", ") -> str:
    return separator.join(metric.name for metric in metrics)

"""The data of a run: read once, with what the manifest says of them."""

from typing import Any, NamedTuple

from ddpm_jax.build import class_names
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.data import Source
from ddpm_jax.measures.manifest import fingerprints


class RunData(NamedTuple):
    """The data of a run, read.

    Attributes:
      train, validation: the sources; no validation, None.
      prints: their fingerprints, as `manifest.fingerprints`.
      class_names: what config.data.class_names becomes.
      described: for the manifest.
    """

    train: Source
    validation: Source | None
    prints: dict[str, str | None]
    class_names: tuple[str, ...]
    described: dict[str, Any]


def read_data(experiment: Experiment) -> RunData:
    """Read the data of a run. Raises UserError if they do not fit."""
    config = experiment.config
    train = experiment.source("train")
    validation = experiment.source("validation") if config.train.validate_every else None
    prints = fingerprints(train, validation)
    # Also of a network that takes no label: samples of it may be sorted into them.
    every = class_names.kept(train.info, train.info.num_classes)
    names = class_names.kept(train.info, config.model.num_classes)
    described = {**prints, "class_names": list(every)}
    return RunData(train, validation, prints, names, described)

"""The data of a run: read once, with what the manifest says of them."""

from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.build import begun, begun_towers, class_names, kept, texts
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.data import Source
from ddpm_jax.measures.manifest import fingerprints


class RunData(NamedTuple):
    """The data of a run, read.

    Attributes:
      train, validation: the sources; no validation, None.
      experiment: with what the run begins with or has: its tokenizer, its CLIP.
      prints: their fingerprints, as `manifest.fingerprints`, and the tokenizer's digest.
      class_names: what config.data.class_names becomes.
      described: for the manifest.
    """

    train: Source
    validation: Source | None
    experiment: Experiment
    prints: dict[str, str | None]
    class_names: tuple[str, ...]
    described: dict[str, Any]


def read_data(experiment: Experiment, resumed: Path | None = None) -> RunData:
    """Read the data of a run, with the tokenizer and the CLIP that it begins with or has.

    Args:
      experiment: the run's.
      resumed: the workdir of a run that goes on, where these are taken from; None for a new one.

    Raises:
      UserError: if they do not fit.
    """
    config = experiment.config
    train = experiment.source("train")
    validation = experiment.source("validation") if config.train.validate_every else None
    if resumed is None:
        experiment = begun.with_made(experiment, train)
        begun_towers.check_tokenizer(
            experiment.towers, config.train.init_from, experiment.tokenizer
        )
    else:
        experiment = kept.with_kept(experiment, resumed)
    prints = {**fingerprints(train, validation), **texts.described(experiment.tokenizer)}
    # Also of a network that takes no label: samples of it may be sorted into them.
    every = class_names.kept(train.info, train.info.num_classes)
    names = class_names.kept(train.info, config.model.get("num_classes", 0))
    described = {**prints, "class_names": list(every)}
    return RunData(train, validation, experiment, prints, names, described)

"""The data of a run: read once, with what the manifest says of them."""

from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.build import begun_towers, class_names, texts
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.data import Source
from ddpm_jax.data.tokenizers import Tokenizer
from ddpm_jax.measures.manifest import fingerprints


class RunData(NamedTuple):
    """The data of a run, read.

    Attributes:
      train, validation: the sources; no validation, None.
      tokenizer: of their captions; None where no text is read.
      prints: their fingerprints, as `manifest.fingerprints`, and the tokenizer's digest.
      class_names: what config.data.class_names becomes.
      described: for the manifest.
    """

    train: Source
    validation: Source | None
    tokenizer: Tokenizer | None
    prints: dict[str, str | None]
    class_names: tuple[str, ...]
    described: dict[str, Any]


def read_data(experiment: Experiment, resumed: Path | None = None) -> RunData:
    """Read the data of a run, with the tokenizer that it begins with or has.

    Args:
      experiment: the run's.
      resumed: the workdir of a run that goes on, whose tokenizer is taken; None for a new one.

    Raises:
      UserError: if they do not fit.
    """
    config = experiment.config
    train = experiment.source("train")
    validation = experiment.source("validation") if config.train.validate_every else None
    made = texts.made(experiment, train) if resumed is None else texts.kept(experiment, resumed)
    if resumed is None:
        begun_towers.check_tokenizer(experiment.towers, config.train.init_from, made)
    prints = {**fingerprints(train, validation), **texts.described(made)}
    # Also of a network that takes no label: samples of it may be sorted into them.
    every = class_names.kept(train.info, train.info.num_classes)
    names = class_names.kept(train.info, config.model.get("num_classes", 0))
    described = {**prints, "class_names": list(every)}
    return RunData(train, validation, made, prints, names, described)

"""config.objective.perceptual: what tells an autoencoder how images look, kept by its run."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_jax.build import autoencoding
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.build.kept_trees import Keeping, Trees
from ddpm_jax.models import Classifier
from ddpm_jax.models.perceptual import ClassifierFeatures
from ddpm_jax.training.objectives.autoencode import LOOKS

KEEPING = Keeping("perceptual.json", "what tells how images look")
NETWORK, TIME = "network", "time"  # of a classifier, in the file
# Of a classifier, what makes its features the function that they are; it computes in float32.
FIELDS = (
    "block_channels",
    "num_blocks",
    "attention_levels",
    "num_classes",
    "head_dim",
    "num_heads",
    "num_groups",
    "norm_epsilon",
    "scale_shift_norm",
    "resample_blocks",
    "residual_scale",
)


def keep(experiment: Experiment, workdir: str | Path) -> None:
    """Write the weights into a run's workdir, where they are not there already.

    Raises:
      UserError: where they cannot be written.
    """
    if LOOKS not in experiment.frozen:
        return
    looks = experiment.frozen[LOOKS]
    if isinstance(looks, ClassifierFeatures):
        content = {NETWORK: fields_of(looks.network), TIME: looks.time}
        KEEPING.keep(workdir, {LOOKS: looks.params}, content)
    else:
        KEEPING.keep(workdir, {LOOKS: looks}, {})


def with_kept(experiment: Experiment, workdir: str | Path) -> Experiment:
    """The experiment with the weights that its run keeps.

    Raises:
      UserError: where they are gone or damaged.
    """
    if not autoencoding.has_looks(experiment.config):
        return experiment

    def looks(content: dict[str, Any], trees: Trees) -> Any:
        tree = trees[LOOKS]
        if NETWORK not in content:
            return tree
        return ClassifierFeatures(tree, network_of(content[NETWORK]), float(content[TIME]))

    return with_looks(experiment, KEEPING.taken(workdir, looks))


def with_looks(experiment: Experiment, tree: Any) -> Experiment:
    """The experiment with that tree frozen."""
    return dataclasses.replace(experiment, frozen={**experiment.frozen, LOOKS: tree})


def fields_of(network: Any) -> dict[str, Any]:
    """What makes a `Classifier` the function that it is, as JSON. AttributeError for others."""
    return {name: getattr(network, name) for name in FIELDS}


def network_of(fields: Mapping[str, Any]) -> Classifier:
    """The network of such fields. Raises TypeError or KeyError for others."""
    made: dict[str, Any] = {name: fields[name] for name in FIELDS}
    for name, value in made.items():
        made[name] = tuple(value) if isinstance(value, list) else value
    return Classifier(**made)

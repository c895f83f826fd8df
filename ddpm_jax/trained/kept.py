"""Compiled programs that an experiment keeps, by what shapes them."""

from collections.abc import Callable, Hashable
from typing import Any

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.trained import signature
from ddpm_jax.trained.signature import hashable

MOST_KEPT = 32  # of an experiment; the one that was not used for longest goes


def kept(experiment: Experiment, key: Hashable, make: Callable[[], Any]) -> Any:
    """What the experiment keeps under a key; made where it is missing."""
    programs = experiment.programs
    programs[key] = programs.pop(key) if key in programs else make()  # the newest stands last
    while len(programs) > MOST_KEPT:
        del programs[next(iter(programs))]
    return programs[key]


def key_of(experiment: Experiment) -> tuple[Hashable, ...]:
    """What of an experiment shapes a program that samples it, beside its path and the task."""
    fields = signature.of_sampling(experiment.config)
    return fields, experiment.codec.shape, hashable(experiment.model), experiment.mesh

"""The compiled program that samples an experiment for a task."""

import functools
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax import samplers
from ddpm_jax.build import paths, sampling, upsampling
from ddpm_jax.build.experiment import Experiment, fields_of
from ddpm_jax.build.experiment import build as build_parts
from ddpm_jax.config import code
from ddpm_jax.config.code import NONE, Own
from ddpm_jax.config.config_files import own_names
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.trained import drawing, steering, tasks

NO_TASK = tasks.Task()


def build(config: ConfigDict, task: tasks.Task = NO_TASK, *, own: Own = NONE) -> Experiment:
    """Build what a config describes, and refuse now a sample group that does not fit the task.

    Args:
      config: the experiment.
      task: for which it will be sampled.
      own: the parts that are the user's own, by "package.module:name". Nothing is imported here:
        `imported_parts` imports what a config of one's own names.

    Raises:
      UserError: naming the field, for a value that is unknown or does not fit the others.
    """
    experiment = build_parts(config, own)
    if experiment.draws_images:
        sample_fn(experiment, task)
    return experiment


def imported_parts(config: ConfigDict) -> Own:
    """The user's own parts that a config names, imported: for a config that the user wrote.

    Never for one that a workdir holds, whose names are whoever's that wrote it.

    Raises:
      UserError: for a module that cannot be imported, or lacks the name.
    """
    return code.imported_all(own_names(config))


def sample_fn(experiment: Experiment, task: tasks.Task = NO_TASK) -> drawing.SampleFn:
    """The compiled (params, keys [B], given [B, ...]) -> x_0 of config.sample and a task.

    Raises:
      UserError: for a classifier, or a sample group or task that does not fit.
    """
    if not experiment.draws_images:
        raise UserError(
            "this run is a classifier, which draws no images: draw from a diffusion model and "
            "name the classifier's run with --classifier_workdir"
        )
    tasks.check(experiment.config, task)
    with fields_of("sample"):
        sampler = sampling.sampler(experiment.config, experiment.own)
        if experiment.schedule is not None:
            return _program(experiment, experiment.schedule, sampler, task)
        first = paths.first_learned(experiment.config)
        _program(experiment, first, sampler, tasks.without_guides(task))  # refuses what is bad
    # A sampler's coefficients are numbers, so a schedule that is learned is compiled into one
    # program for each of its states.
    last: dict[bytes, drawing.SampleFn] = {}

    def sample(params: Any, keys: jax.Array, given: drawing.Conditions) -> jax.Array:
        learned = jax.device_get({"gamma": params["gamma"]})
        state = b"".join(leaf.tobytes() for leaf in jax.tree.leaves(learned))
        if state not in last:
            last.clear()
            with fields_of("sample"):
                last[state] = _program(experiment, experiment.schedule_of(learned), sampler, task)
        return last[state](params, keys, given)

    return sample


def nfe(experiment: Experiment, params: Any, task: tasks.Task = NO_TASK) -> int | None:
    """The network evaluations of an image of config.sample and a task; None if they vary."""
    config, schedule = experiment.config, experiment.schedule_of(params)
    times = sampling.times(config, schedule, experiment.own)
    if len(task.init_images):
        times = samplers.grids.truncated(times, tasks.strength(task))
    return sampling.nfe(sampling.sampler(config, experiment.own), schedule, times)


def _program(
    experiment: Experiment, schedule: Schedule, sampler: functools.partial[Any], task: tasks.Task
) -> drawing.SampleFn:
    c = experiment.config
    times = sampling.times(c, schedule, experiment.own)
    sampling.check(c, sampler, schedule, times)
    if len(task.init_images):
        times = samplers.grids.truncated(times, tasks.strength(task))
    else:
        sampling.check_noise(c, schedule, times)
    tasks.check_guides(c, schedule, task)
    return drawing.make_sample_fn(
        steering.denoiser(c, experiment.model.apply, schedule, task),
        steering.start(c, schedule, times, task),
        steering.run(sampler, schedule, times, task),
        prepare=upsampling.prepare(c),
        helpers=task.helpers,
        mesh=experiment.mesh,
    )

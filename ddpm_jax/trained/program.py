"""The compiled programs that sample an experiment: kept, and found again by what shapes them."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import samplers
from ddpm_jax.build import assemble, paths, sampling, upsampling
from ddpm_jax.build.experiment import Experiment, fields_of
from ddpm_jax.config import config_files, own_code
from ddpm_jax.config.checks import check_ranges, has
from ddpm_jax.config.config_files import own_names
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.trained import (
    clip_tasks,
    drawing,
    guide_checks,
    latent_tasks,
    one_pass,
    signature,
    steering,
    tasks,
    token_program,
)
from ddpm_jax.trained.kept import kept, key_of
from ddpm_jax.trained.signature import Signature, hashable

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
    experiment = assemble.build(config, own)
    check(experiment, task)
    return experiment


def check(experiment: Experiment, task: tasks.Task = NO_TASK) -> None:
    """Refuse a sample group that does not fit the task. Raises UserError naming the field."""
    if not experiment.kind.why_no_images(experiment.config):
        sample_fn(experiment, task)


def imported_parts(config: ConfigDict) -> Own:
    """The user's own parts that a config names, imported: for a config that the user wrote.

    Never for one that a workdir holds, whose names are whoever's that wrote it.

    Raises:
      UserError: for a module that cannot be imported, or lacks the name.
    """
    return own_code.imported_all(own_names(config))


def sampled_with(experiment: Experiment, options: dict[str, Any]) -> Experiment:
    """The same experiment with other fields of config.sample; it shares the compiled programs.

    Raises:
      UserError: for an unknown field, or a value that is out of range.
    """
    config = config_files.override(experiment.config, {"sample": options})
    check_ranges(config)
    if has(config, "diffusion.low_resolution"):
        upsampling.check(config)
    built = dict(experiment.built)
    if built:  # no part is of config.sample
        built["config"] = built["config"] | {"sample": config.sample.to_dict()}
    return dataclasses.replace(experiment, config=config, built=built)


def check_draws(experiment: Experiment) -> None:
    """Raises UserError for a kind of run that draws no images."""
    if why := experiment.kind.why_no_images(experiment.config):
        raise UserError(f"this run is {experiment.kind.one}, which draws no images: {why}")


def sample_fn(experiment: Experiment, task: tasks.Task = NO_TASK) -> drawing.SampleFn:
    """The compiled (params, keys [B], given [B, ...]) -> x_0 of config.sample and a task.

    Raises:
      UserError: for a kind that draws no images, or a sample group or task that does not fit.
    """
    check_draws(experiment)
    return DRAWS[experiment.kind.draws].sample_fn(experiment, task)


def nfe(experiment: Experiment, params: Any, task: tasks.Task = NO_TASK) -> int | None:
    """The network evaluations of an image of config.sample and a task; None if they vary.

    Without parameters also where they would tell.
    """
    return DRAWS[experiment.kind.draws].nfe(experiment, params, task)


def passes(experiment: Experiment, params: Any = None) -> int | None:
    """What an image costs without a task, in forward passes of the network; None as `nfe`."""
    return DRAWS[experiment.kind.draws].passes(experiment, params, NO_TASK)


def noise_size(experiment: Experiment) -> int:
    """How many numbers of noise an image is made of."""
    return math.prod(DRAWS[experiment.kind.draws].noise(experiment))


def _diffused(experiment: Experiment, task: tasks.Task) -> drawing.SampleFn:
    """`sample_fn` of a diffusion model.

    The program is kept on the experiment by its `Signature`: another seed, label or condition,
    image, mask, scale, weight or guide's parameters compiles nothing, nor does a strength that
    leaves as many steps.
    """
    config, schedule = experiment.config, experiment.schedule
    tasks.check(config, task)
    guide_checks.check_kinds(task)
    clip_tasks.check(config, task)
    latent_tasks.check(config, task)
    helpers, numbers = task.helpers, signature.numbers(config, task)
    with fields_of("sample"):
        sampler = sampling.sampler(config, experiment.own)
        if schedule is None:
            programs = _programs_by_state(experiment, sampler, task)
        else:
            program = _program(experiment, schedule, sampler, task)
            guide_checks.check_guides(experiment, schedule, task)

    def sample(params: Any, keys: jax.Array, inputs: drawing.ArraysByName) -> jax.Array:
        with fields_of("sample"):
            of_state = programs(params) if schedule is None else program
        return of_state(params, helpers, numbers, keys, inputs)

    return sample


def _evaluations(experiment: Experiment, params: Any, task: tasks.Task) -> int | None:
    """`nfe` of a diffusion model: of a learned schedule, its parameters tell."""
    config = experiment.config
    if experiment.schedule is None and params is None:
        return None

    def counted() -> int | None:
        schedule = experiment.schedule_of(params)
        times = _times(experiment, schedule, task)
        return sampling.nfe(sampling.sampler(config, experiment.own), schedule, times)

    strength = tasks.strength(task) if len(task.init_images) else None
    state = _state(params) if experiment.schedule is None else hashable(experiment.schedule)
    return kept(experiment, ("nfe", signature.of_sampling(config), state, strength), counted)


class Draws(NamedTuple):
    """How a kind of run draws images.

    Attributes:
      sample_fn: (experiment, task) -> as the function of that name.
      nfe, passes: (experiment, parameters or None, task) -> as the functions of these names.
      noise: experiment -> the shape of the noise of one image.
    """

    sample_fn: Callable[[Experiment, tasks.Task], drawing.SampleFn]
    nfe: Callable[[Experiment, Any, tasks.Task], int | None]
    passes: Callable[[Experiment, Any, tasks.Task], int | None]
    noise: Callable[[Experiment], tuple[int, ...]] = lambda experiment: experiment.codec.shape


# By the name that the record of a kind has for it.
DRAWS: dict[str, Draws] = {
    "diffusion": Draws(_diffused, _evaluations, _evaluations),
    "one_pass": Draws(one_pass.sample_fn, one_pass.nfe, one_pass.passes, one_pass.noise),
    "tokens": Draws(token_program.sample_fn, token_program.nfe, token_program.passes),
}


def _program(
    experiment: Experiment, schedule: Schedule, sampler: functools.partial[Any], task: tasks.Task
) -> drawing.Program:
    """The program on a fixed schedule, kept or built."""
    request = _signature(experiment, schedule, task)
    key = (*key_of(experiment), hashable(schedule), request)
    return kept(experiment, key, lambda: _built(experiment, schedule, sampler, task, request))


def _programs_by_state(
    experiment: Experiment, sampler: functools.partial[Any], task: tasks.Task
) -> Callable[[Any], drawing.Program]:
    """params -> the program on the schedule that they learned; that of the newest state is kept.

    A sampler's coefficients are numbers in its program, so each state of gamma has its own.
    """
    config = experiment.config
    first = paths.first_learned(config)
    request = _signature(experiment, first, task)

    def none_yet() -> dict[bytes, tuple[Schedule, drawing.Program]]:
        _built(experiment, first, sampler, task, request)  # refuses what is bad
        return {}

    newest = kept(experiment, (*key_of(experiment), None, request), none_yet)
    checked: set[bytes] = set()

    def program(params: Any) -> drawing.Program:
        state = _state(params)
        if state not in newest:
            newest.clear()
            schedule = experiment.schedule_of(jax.device_get({"gamma": params["gamma"]}))
            newest[state] = schedule, _built(experiment, schedule, sampler, task, request)
        schedule, built = newest[state]
        if state not in checked:
            guide_checks.check_guides(experiment, schedule, task)
            checked.add(state)
        return built

    return program


def _built(
    experiment: Experiment,
    schedule: Schedule,
    sampler: functools.partial[Any],
    task: tasks.Task,
    request: Signature,
) -> drawing.Program:
    c = experiment.config
    whole = sampling.times(c, schedule, experiment.own)
    sampling.check(c, sampler, schedule, whole)
    if not request.init_images:
        sampling.check_noise(c, schedule, whole)
    times = _times(experiment, schedule, task)
    return drawing.make_program(
        steering.denoiser(c, experiment.model.apply, schedule, request),
        steering.start(experiment.codec.shape, schedule, times, request),
        steering.run(sampler, schedule, times, request, by_mean=bool(c.sample.mean_gradient)),
        prepare=upsampling.prepare(c),
        mesh=experiment.mesh,
    )


def _times(experiment: Experiment, schedule: Schedule, task: tasks.Task) -> np.ndarray:
    """The part of the grid that a task runs."""
    times = sampling.times(experiment.config, schedule, experiment.own)
    if len(task.init_images):
        times = samplers.grids.truncated(times, tasks.strength(task))
    return times


def _signature(experiment: Experiment, schedule: Schedule, task: tasks.Task) -> Signature:
    # Without images to begin with the grid is all of config.sample's, which is in the key.
    steps = len(_times(experiment, schedule, task)) - 1 if len(task.init_images) else None
    return signature.of(experiment.config, task, steps)


def _state(params: Any) -> bytes:
    """The state of a learned schedule."""
    leaves = jax.tree.leaves(jax.device_get(params["gamma"]))
    return b"".join(leaf.tobytes() for leaf in leaves)

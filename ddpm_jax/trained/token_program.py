"""The compiled programs that draw an experiment of tokens, one token after the other."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.config.checks import check_guidable
from ddpm_jax.diffusion import autoregressive, condition_dropout, guidance
from ddpm_jax.errors import UserError
from ddpm_jax.models.language import LABEL
from ddpm_jax.runtime import compiling, processes, sharding
from ddpm_jax.trained import drawing, tasks
from ddpm_jax.trained.asked import asked
from ddpm_jax.trained.kept import kept, key_of
from ddpm_jax.trained.tasks import Task

# Of a `Task`, what can be asked of tokens.
TAKES = ("inpaint",)


def check_task(c: ConfigDict, task: Task) -> None:
    """What is asked of tokens can be had of them. Raises UserError naming what cannot."""
    for name in asked(task):
        if name not in TAKES:
            raise UserError(
                f"{name}: a language model draws one token after the other; it completes what is "
                "given first (inpaint) and can do nothing else; leave it unset"
            )
    tasks.check_images(c, task)
    if task.inpaint is not None:
        num_given(np.broadcast_to(task.inpaint[1], task.inpaint[0].shape))
    if c.sample.guidance_scale != 1:
        check_guidable(c, f"config.sample.guidance_scale={c.sample.guidance_scale!r}")


def num_given(mask: np.ndarray) -> int:
    """How many tokens of an image are given, of a mask [H, W, C] that is True where it is painted.

    Raises:
      UserError: unless all that is painted comes after all that is given, row by row.
    """
    painted = mask.ravel().astype(bool)
    given = int((~painted).sum())
    if painted[:given].any():
        raise UserError(
            "inpaint: a language model completes an image row by row: the mask must be black up to "
            "one pixel and white from there to the end"
        )
    return given


def sample_fn(experiment: Experiment, task: Task) -> drawing.SampleFn:
    """The compiled (params, keys [B], given [B, ...]) -> x_0 of config.sample and a task.

    Another seed, label, image, temperature or scale compiles nothing: how many tokens are given is
    a number of each image.

    Raises:
      UserError: for a task, or a sample group, that does not fit.
    """
    check_task(experiment.config, task)
    program, shape = tokens_program(experiment), experiment.codec.shape

    def sample(params: Any, keys: jax.Array, inputs: drawing.ArraysByName) -> jax.Array:
        num, asked = len(keys), inputs.get(drawing.TASK, {})
        given = np.asarray(asked.get("known", np.zeros((num, *shape), np.int32)))
        masks = np.asarray(asked.get("mask", np.ones((num, *shape)))) > 0
        counts = [num_given(mask) for mask in np.broadcast_to(masks, given.shape)]
        labels = inputs.get(LABEL, np.full(num, condition_dropout.NULL_VALUE, np.int32))
        tokens = program(params, keys, labels, given.reshape(num, -1), np.asarray(counts, np.int32))
        return tokens.reshape(num, *shape)

    return sample


def tokens_program(experiment: Experiment) -> Callable[..., jax.Array]:
    """The compiled program of config.sample, kept on the experiment, and its numbers.

    (params, keys [B], labels [B], given [B, L], num_given [B]) -> tokens int32 [B, L]; a sequence
    is a function of its key, label and given tokens alone.
    """
    sample = experiment.config.sample
    scale, temperature = np.float32(sample.guidance_scale), np.float32(sample.temperature)
    only = guidance.only_branch([float(scale)])
    key = ("tokens", only, *key_of(experiment))
    compiled = kept(experiment, key, lambda: _compiled(experiment, only))
    place = sharding.batch_sharding(experiment.mesh)

    def program(params: Any, *arrays: Any) -> jax.Array:
        arrays = tuple(processes.placed(array, place) for array in arrays)
        return compiled(params, *arrays, scale, temperature)

    return program


def _compiled(experiment: Experiment, only: int | None) -> Callable[..., jax.Array]:
    model, top_k = experiment.model, experiment.config.sample.top_k
    takes_labels = bool(experiment.config.model.num_classes)
    batch = sharding.batch_sharding(experiment.mesh)

    def draw(
        params: Any,
        keys: jax.Array,
        labels: jax.Array,
        given: jax.Array,
        num_given: jax.Array,
        scale: jax.Array,
        temperature: jax.Array,
    ) -> jax.Array:
        variables, (num, length) = {"params": params}, given.shape
        branches = {0: {LABEL: labels}, -1: condition_dropout.null({LABEL: labels})}
        sides: list[Any] = [branches[only]] if only is not None else [*branches.values()]
        sides = sides if takes_labels else [None]

        def step(carries: Any, place: jax.Array, before: jax.Array) -> tuple[jax.Array, Any]:
            each = [model.apply(variables, one, place, before, method="step") for one in carries]
            logits = [of_side for of_side, _ in each]
            first, *others = logits
            mixed = autoregressive.mixed(first, others[0], scale) if others else first
            return mixed, [after for _, after in each]

        return autoregressive.draw(
            step,
            [model.apply(variables, num, side, method="begin") for side in sides],
            jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys),
            given=given,
            num_given=num_given,
            adjust=autoregressive.adjusted(temperature, top_k),
        ).tokens

    places = (None, batch, batch, batch, batch, None, None)
    return compiling.jit(draw, in_shardings=places, out_shardings=batch)


def nfe(experiment: Experiment, params: Any, task: Task) -> int:
    """One evaluation for each token."""
    return math.prod(experiment.codec.shape)


def passes(experiment: Experiment, params: Any, task: Task) -> int:
    """What an image costs, in forward passes of a whole sequence: with what is kept, one."""
    return 1

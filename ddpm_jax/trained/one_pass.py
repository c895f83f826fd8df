"""The compiled program that draws images in one pass each, from noise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import compiling, processes, sharding
from ddpm_jax.trained import drawing
from ddpm_jax.trained.asked import asked
from ddpm_jax.trained.kept import kept, key_of
from ddpm_jax.trained.tasks import Task


def check_task(experiment: Experiment, task: Task) -> None:
    """Nothing but a label is asked of a pass. Raises UserError naming what is."""
    one = experiment.kind.one
    for name in asked(task):
        raise UserError(f"{name}: {one} makes an image of noise in one pass; leave it unset")
    scale = experiment.config.sample.guidance_scale
    if scale != 1:
        raise UserError(
            f"config.sample.guidance_scale={scale!r}: {one} makes an image of noise in one pass, "
            "which nothing guides; leave it at 1"
        )


def sample_fn(experiment: Experiment, task: Task) -> drawing.SampleFn:
    """The compiled (params, keys [B], given [B, ...]) -> x_0 of config.sample.

    Another seed, label or temperature compiles nothing.

    Raises:
      UserError: for a task, or a sample group, that does not fit.
    """
    check_task(experiment, task)
    compiled = kept(experiment, ("one_pass", *key_of(experiment)), lambda: _compiled(experiment))
    temperature = np.float32(experiment.config.sample.temperature)
    place = sharding.batch_sharding(experiment.mesh)

    def sample(params: Any, keys: jax.Array, inputs: drawing.ArraysByName) -> jax.Array:
        labels = np.asarray(inputs.get("label", np.zeros(len(keys), np.int32)))
        rows = (processes.placed(array, place) for array in (keys, labels))
        return compiled(params, *rows, temperature)

    return sample


def _compiled(experiment: Experiment) -> Any:
    from_noise = experiment.kind.from_noise
    assert from_noise is not None  # of every kind whose draws are "one_pass"
    shape, images = from_noise(experiment.config, experiment.model)
    batch = sharding.batch_sharding(experiment.mesh)

    def draw(params: Any, keys: jax.Array, labels: jax.Array, temperature: jax.Array) -> jax.Array:
        z = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        return images(params, temperature * z, labels).astype(jnp.float32)

    return compiling.jit(draw, in_shardings=(None, batch, batch, None), out_shardings=batch)


def noise(experiment: Experiment) -> tuple[int, ...]:
    """The shape of the noise of one image."""
    from_noise = experiment.kind.from_noise
    assert from_noise is not None  # of every kind whose draws are "one_pass"
    return from_noise(experiment.config, experiment.model).shape


def nfe(experiment: Experiment, params: Any, task: Task) -> int:
    """One evaluation of the network."""
    return 1


def passes(experiment: Experiment, params: Any, task: Task) -> int:
    """What an image costs, in forward passes of the network: at most one."""
    return 1

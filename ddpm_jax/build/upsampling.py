"""config.diffusion.low_resolution: a model that enlarges, what it is shown and with which noise."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import streams
from ddpm_jax.config.checks import image_shape
from ddpm_jax.diffusion import cascade, guidance
from ddpm_jax.errors import UserError
from ddpm_jax.training.objectives.base import Objective
from ddpm_jax.training.objectives.cascaded import cascaded

NAME = cascade.NAME
AUGMENTATION = 0.5

ArraysByName = Mapping[str, Any]
Prepared = tuple[jax.Array, ArraysByName, ArraysByName]
# (keys [B], conditions, a task's arrays, level of noise) -> the first three, for the program
Prepare = Callable[[jax.Array, ArraysByName, ArraysByName, jax.Array], Prepared]


def check(c: ConfigDict) -> None:
    """The fields of an enlarging model fit each other. Raises UserError naming what does not."""
    d, (height, width, _) = c.diffusion, image_shape(c)
    small = d.low_resolution
    if (small is None) == (NAME in c.model.conditions):
        raise UserError(
            f"config.diffusion.low_resolution={small} and config.model.conditions="
            f"{c.model.conditions}: a model that enlarges has a height there and {NAME!r} here, "
            "every other neither"
        )
    if small is None:
        for group, field in (("diffusion", "augmentation"), ("sample", "augmentation")):
            if c[group][field] is not None:
                raise UserError(
                    f"config.{group}.{field}={c[group][field]}: applies only to a model that "
                    "enlarges; set diffusion.low_resolution, or leave it unset"
                )
        return
    if not 0 < small < height or height % small or width % (height // small):
        raise UserError(
            f"config.diffusion.low_resolution={small}: need {height} / k for a whole k > 1 that "
            f"divides {height} and {width}, config.data.image_size"
        )
    largest = augmentation(c)
    if not 0 <= largest < 1:
        raise UserError(f"config.diffusion.augmentation={largest}: need at least 0 and below 1")
    if not 0 <= level(c) <= largest:
        raise UserError(
            f"config.sample.augmentation={level(c)}: need 0 to {largest}, the largest of training "
            "(config.diffusion.augmentation)"
        )


def size(c: ConfigDict) -> tuple[int, int, int] | None:
    """(h, w, C) of the images that the model enlarges; None for a model that does not."""
    if c.get("diffusion", {}).get("low_resolution") is None:
        return None
    _, width, channels = image_shape(c)
    return c.diffusion.low_resolution, width // factor(c), channels


def factor(c: ConfigDict) -> int:
    """How many times as high and wide they become."""
    return c.data.image_size[0] // c.diffusion.low_resolution


def augmentation(c: ConfigDict) -> float:
    """The largest level of noise in training."""
    return AUGMENTATION if c.diffusion.augmentation is None else c.diffusion.augmentation


def level(c: ConfigDict) -> float:
    """The level of noise when sampling."""
    return augmentation(c) / 2 if c.sample.augmentation is None else c.sample.augmentation


def next_command(c: ConfigDict) -> str:
    """How samples are drawn by this model: flags of the sample command, {workdir} for its run."""
    if c.diffusion.low_resolution is None:
        return "--workdir={workdir}"
    return "--workdir=SMALLER --upsampler_workdir={workdir}"


def objective(c: ConfigDict, plain: Objective) -> Objective:
    """The objective of a model that enlarges, or the plain one."""
    if c.get("diffusion", {}).get("low_resolution") is None:
        return plain
    return cascaded(plain, factor(c), augmentation(c))


def shrunk(c: ConfigDict, images: np.ndarray) -> np.ndarray:
    """Images [N, H, W, C] as this model is to enlarge them, [N, h, w, C]."""
    return np.asarray(guidance.average_pool(factor(c))(jnp.asarray(images)))


def prepare(c: ConfigDict) -> Prepare:
    """What turns small images into the network's condition, inside the program that samples.

    There, so that no more than a batch of them is ever enlarged. A small image comes as
    [B, h, w, C + 1], its last channel 1, or 0 where it is absent.
    """
    if c.get("diffusion", {}).get("low_resolution") is None:
        return lambda keys, conditions, task, level: (keys, conditions, task)
    height, width, _ = image_shape(c)

    def prepared(
        keys: jax.Array, conditions: ArraysByName, task: ArraysByName, level: jax.Array
    ) -> Prepared:
        # Other keys than those of the model that drew the small image with the same seed: noise
        # that begins as its noise did is not independent of the image.
        keys = streams.fold(keys, streams.enlarging(height))
        keys, keys_eps = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)

        def enlarged(inputs: Any) -> Any:
            if not isinstance(inputs, Mapping) or NAME not in inputs:
                return inputs
            small, present = inputs[NAME][..., :-1], inputs[NAME][:, :1, :1, -1:]
            levels = jnp.full(len(keys), level, small.dtype)
            image = cascade.noised(keys_eps, small, levels, (height, width))
            return {**inputs, NAME: image * present}

        return keys, enlarged(conditions), {name: enlarged(one) for name, one in task.items()}

    return prepared

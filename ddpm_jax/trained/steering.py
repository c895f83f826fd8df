"""From config.sample and a task to what is sampled: the denoiser, its start, the sampler's run."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import samplers
from ddpm_jax.build import conditioning, paths, sampling
from ddpm_jax.diffusion import condition_dropout, guidance, prediction
from ddpm_jax.diffusion.guidance import Scale
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule, expand
from ddpm_jax.errors import UserError
from ddpm_jax.trained.tasks import Task, Trained

Arrays = Mapping[str, Any]
DATA_STD = 0.5  # of pixels in [-1, 1], as EDM has it
MOST_BYTES = 4 * 2**30  # of a trajectory, as the program keeps it


def denoiser(
    c: ConfigDict, apply_fn: Callable[..., Any], schedule: Schedule, task: Task
) -> Callable[[Any, Arrays, Arrays, Arrays], Denoiser]:
    """(params, helpers, conditions, task's arrays) -> config.sample's denoiser, guided and bounded.

    Raises:
      ValueError: for guidance options that do not fit.
    """
    scale, rescale = _scale(c, schedule), c.sample.guidance_rescale or 0.0
    options = _of_network(c)

    def model(params: Any, helpers: Arrays, conditions: Arrays, arrays: Arrays) -> Denoiser:
        if task.weaker is not None:
            return guidance.classifier_free(
                prediction.denoiser(
                    apply_fn, params, schedule, conditions=dict(conditions) or None, **options
                ),
                _weaker(task.weaker, helpers["weaker"], schedule, conditions),
                scale,
                rescale=rescale,
                schedule=schedule,
            )
        if not conditioning.dropout(c):
            return prediction.denoiser(apply_fn, params, schedule, **options)
        branches, scales = [conditions], [scale]
        if task.composed:
            branches = [arrays[f"branch_{k}"] for k in range(len(task.composed))]
            scales = [weight for weight, _ in task.composed]
        elif task.between_labels is not None:
            branches, share = [arrays["branch_0"], arrays["branch_1"]], arrays["share"]
            scales = [_shared(scale, 1 - share), _shared(scale, share)]
        return guidance.composed_network(
            apply_fn,
            params,
            schedule,
            branches,
            condition_dropout.null(branches[0]),
            scales,
            rescale=rescale,
            prediction_name=options["prediction"],
            learned_variance=options["learned_variance"],
        )

    def guided(params: Any, helpers: Arrays, conditions: Arrays, arrays: Arrays) -> Denoiser:
        denoise = model(params, helpers, conditions, arrays)
        if task.classifier is not None:
            log_prob = guidance.class_log_prob(
                task.classifier.experiment.model.apply,
                helpers["classifier"],
                schedule,
                arrays["label"],
            )
            strength = 1.0 if c.sample.classifier_scale is None else c.sample.classifier_scale
            gradient = guidance.gradient(log_prob)
            denoise = guidance.classifier(denoise, schedule, gradient, strength)
        if task.observed is None:
            return denoise
        return guidance.observed(
            denoise,
            schedule,
            _measure(c, task),
            arrays["observed"],
            noise_std=task.observation_noise,
            data_std=c.diffusion.prediction_options.get("sigma_data", DATA_STD),
        )

    def bounded(params: Any, helpers: Arrays, conditions: Arrays, arrays: Arrays) -> Denoiser:
        return sampling.bounded(c, guided(params, helpers, conditions, arrays), schedule)

    return bounded


def start(
    c: ConfigDict, schedule: Schedule, times: np.ndarray, task: Task
) -> Callable[[jax.Array, Arrays], jax.Array]:
    """(keys [B], task's arrays) -> x at times[0]: noise, or an image with noise."""
    shape = (*c.data.image_size, c.data.channels)

    def begin(keys: jax.Array, arrays: Arrays) -> jax.Array:
        if not len(task.init_images):
            return samplers.initial_noise(keys, schedule, times, (len(keys), *shape))
        first = arrays["init_0"]
        if len(task.init_images) == 1:
            return samplers.noised_start(keys, schedule, times, first)
        return samplers.interpolated_start(
            keys, schedule, times, first, arrays["init_1"], arrays["share"]
        )

    return begin


def run(
    sampler: functools.partial[Any],
    schedule: Schedule,
    times: np.ndarray,
    task: Task,
) -> Callable[[Denoiser, jax.Array, jax.Array, Arrays], jax.Array]:
    """(denoise, keys [B], x, task's arrays) -> x_0 [B, ...], or [B, frames, ...].

    Raises:
      UserError: for a sampler that cannot do what is asked.
    """
    takes = inspect.signature(sampler).parameters
    name = sampler.func.__name__
    if task.frames and "return_trajectory" not in takes:
        raise UserError(f"frames={task.frames}: {name} keeps no images on the way; leave them out")
    if task.inpaint is None and "mask" in takes:
        raise UserError(f"{name} applies only to inpainting: give inpaint, or another sampler")
    if task.inpaint is not None and not {"project", "mask"} & set(takes):
        raise UserError(f"inpaint: {name} cannot keep a part of an image; choose another sampler")
    kept = np.unique(np.linspace(0, len(times) - 1, task.frames or 2).round().astype(int))
    # For looking at: paths on which x_t grows are scaled to the size of the data's.
    sizes = np.maximum(np.hypot(*schedule.values(times[kept])), 1)
    sizes[-1] = 1

    def through(denoise: Denoiser, keys: jax.Array, x: jax.Array, arrays: Arrays) -> jax.Array:
        bound = sampler
        if task.inpaint is not None and "mask" in takes:
            bound = functools.partial(bound, known=arrays["known"], mask=arrays["mask"])
        elif task.inpaint is not None:
            project = samplers.replacement(schedule, arrays["known"], arrays["mask"])
            bound = functools.partial(bound, project=project)
        if not task.frames:
            return bound(denoise, schedule, times, keys, x)
        if (size := 4 * x.size * len(times)) > MOST_BYTES:
            raise UserError(
                f"frames: the way of {len(x)} images takes {size / 2**30:.1f} GiB; draw fewer, or "
                "a smaller sample.batch_size"
            )
        _, path = bound(denoise, schedule, times, keys, x, return_trajectory=True)
        path = path[kept]
        return jnp.moveaxis(path / expand(jnp.asarray(sizes, x.dtype), path), 0, 1)

    return through


def _of_network(c: ConfigDict) -> dict[str, Any]:
    return {
        "prediction": paths.parameterisation(c),
        "learned_variance": c.diffusion.variance == "learned_range",
    }


def _weaker(
    weaker: Trained, params: Any, schedule: Schedule, conditions: Arrays
) -> prediction.Denoiser:
    """The weaker model, told what it knows of the conditions."""
    c = weaker.experiment.config
    known = {name: conditions[name] for name in conditioning.dropout(c) if name in conditions}
    return prediction.denoiser(
        weaker.experiment.model.apply, params, schedule, conditions=known or None, **_of_network(c)
    )


def _scale(c: ConfigDict, schedule: Schedule) -> Scale:
    """guidance_scale, within the interval of noise levels that config.sample sets."""
    s = c.sample
    if s.guidance_low is None and s.guidance_high is None:
        return float(s.guidance_scale)
    high = np.inf if s.guidance_high is None else s.guidance_high
    return guidance.within(schedule, s.guidance_scale, s.guidance_low or 0.0, high)


def _shared(scale: Scale, share: jax.Array) -> Scale:
    """The share [B] of a scale that one of two branches gets."""
    if callable(scale):
        return lambda t: share * scale(t)
    return scale * share


def _measure(c: ConfigDict, task: Task) -> Callable[[jax.Array], jax.Array]:
    """What a whole image shows of itself in the image that is given."""
    if task.upscale is None:
        return guidance.grey
    return guidance.average_pool(c.data.image_size[0] // task.upscale.shape[0])

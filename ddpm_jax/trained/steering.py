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
from ddpm_jax.data.captions import TEXT
from ddpm_jax.diffusion import condition_dropout, guidance, prediction
from ddpm_jax.diffusion.guidance import Scale
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule, expand
from ddpm_jax.errors import UserError
from ddpm_jax.trained import judges, tasks
from ddpm_jax.trained.judges import Steered
from ddpm_jax.trained.signature import Guide, Signature, within_interval

Arrays = Mapping[str, Any]
DATA_STD = 0.5  # of pixels in [-1, 1], as EDM has it
MOST_BYTES = 4 * 2**30  # of a trajectory, as the program keeps it


def denoiser(
    c: ConfigDict, apply_fn: Callable[..., Any], schedule: Schedule, request: Signature
) -> Callable[[Any, Arrays, Arrays, Arrays, Arrays], Steered]:
    """(params, helpers, numbers, conditions, task's arrays) -> the denoiser, guided and bounded.

    With the gradient that shifts the mean of each step, where config.sample.mean_gradient asks so.

    Raises:
      ValueError: for guidance options that do not fit.
    """
    rescale, options = c.sample.guidance_rescale or 0.0, _of_network(c)
    scaled = _interval(c, schedule)

    def model(
        params: Any, helpers: Arrays, numbers: Arrays, conditions: Arrays, arrays: Arrays
    ) -> Denoiser:
        scales = _scales(request, numbers["scales"])
        if request.weaker is not None:
            return guidance.classifier_free(
                prediction.denoiser(
                    apply_fn, params, schedule, conditions=dict(conditions) or None, **options
                ),
                _weaker(request.weaker, helpers["weaker"], schedule, conditions),
                scaled(scales[0]),
                rescale=rescale,
                schedule=schedule,
            )
        if not conditioning.dropout(c):
            return prediction.denoiser(apply_fn, params, schedule, **options)
        branches, scales = [conditions], [scaled(scale) for scale in scales]
        if request.composed:
            branches = [arrays[f"branch_{k}"] for k in range(request.composed)]
            scales = _scales(request, numbers["scales"])
        elif request.between_labels:
            branches, share = [arrays["branch_0"], arrays["branch_1"]], arrays["share"]
            scales = [_shared(scales[0], 1 - share), _shared(scales[0], share)]
        return guidance.composed_network(
            apply_fn,
            params,
            schedule,
            branches,
            _without(branches[0], arrays),
            scales,
            rescale=rescale,
            prediction_name=options["prediction"],
            learned_variance=options["learned_variance"],
        )

    def guided(
        params: Any, helpers: Arrays, numbers: Arrays, conditions: Arrays, arrays: Arrays
    ) -> Steered:
        bent = judges.steered(
            model(params, helpers, numbers, conditions, arrays),
            schedule,
            judges.of_task(request, schedule, helpers, numbers, arrays),
            by_mean=bool(c.sample.mean_gradient),
        )
        if not (request.grey or request.pooled):
            return bent
        denoise = guidance.observed(
            bent.denoise,
            schedule,
            guidance.average_pool(request.pooled) if request.pooled else guidance.grey,
            arrays["observed"],
            noise_std=numbers["observation_noise"] if request.noisy else 0.0,
            data_std=c.diffusion.prediction_options.get("sigma_data", DATA_STD),
        )
        return bent._replace(denoise=denoise)

    def bounded(
        params: Any, helpers: Arrays, numbers: Arrays, conditions: Arrays, arrays: Arrays
    ) -> Steered:
        bent = guided(params, helpers, numbers, conditions, arrays)
        return bent._replace(denoise=sampling.bounded(c, bent.denoise, schedule))

    return bounded


def start(
    shape: tuple[int, ...], schedule: Schedule, times: np.ndarray, request: Signature
) -> Callable[[jax.Array, Arrays], jax.Array]:
    """(keys [B], task's arrays) -> x at times[0]: noise, or an image with noise."""

    def begin(keys: jax.Array, arrays: Arrays) -> jax.Array:
        if not request.init_images:
            return samplers.initial_noise(keys, schedule, times, (len(keys), *shape))
        first = arrays["init_0"]
        if request.init_images == 1:
            return samplers.noised_start(keys, schedule, times, first)
        return samplers.interpolated_start(
            keys, schedule, times, first, arrays["init_1"], arrays["share"]
        )

    return begin


def run(
    sampler: functools.partial[Any],
    schedule: Schedule,
    times: np.ndarray,
    request: Signature,
    *,
    by_mean: bool = False,
) -> Callable[[Steered, jax.Array, jax.Array, Arrays], jax.Array]:
    """(what is run, keys [B], x, task's arrays) -> x_0 [B, ...], or [B, frames, ...].

    Args:
      sampler: with its options.
      schedule, times: the path, and the part of the grid that is run.
      request: the task's signature.
      by_mean: guides shift the mean of each step.

    Raises:
      UserError: for a sampler that cannot do what is asked.
    """
    takes = inspect.signature(sampler).parameters
    name = sampler.func.__name__
    if request.frames and "return_trajectory" not in takes:
        raise UserError(
            f"frames={request.frames}: {name} keeps no images on the way; leave them out"
        )
    if not request.inpaint and "mask" in takes:
        raise UserError(f"{name} applies only to inpainting: give inpaint, or another sampler")
    if request.inpaint and not {"project", "mask"} & set(takes):
        raise UserError(f"inpaint: {name} cannot keep a part of an image; choose another sampler")
    if by_mean and "mean_gradient" not in takes:
        raise UserError(
            f"config.sample.mean_gradient=True: {name} has no mean to shift; set sampler=ancestral"
        )
    kept = np.unique(np.linspace(0, len(times) - 1, request.frames or 2).round().astype(int))
    # For looking at: paths on which x_t grows are scaled to the size of the data's.
    sizes = np.maximum(np.hypot(*schedule.values(times[kept])), 1)
    sizes[-1] = 1

    def through(steered: Steered, keys: jax.Array, x: jax.Array, arrays: Arrays) -> jax.Array:
        denoise, bound = steered.denoise, sampler
        if steered.mean_gradient is not None:
            bound = functools.partial(bound, mean_gradient=steered.mean_gradient)
        if request.inpaint and "mask" in takes:
            bound = functools.partial(bound, known=arrays["known"], mask=arrays["mask"])
        elif request.inpaint:
            project = samplers.replacement(schedule, arrays["known"], arrays["mask"])
            bound = functools.partial(bound, project=project)
        if not request.frames:
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


def _without(conditions: Arrays, arrays: Arrays) -> Arrays:
    """What the unconditional branch is told: nothing, but for a text to steer away from."""
    absent = condition_dropout.null(conditions)
    return absent | ({TEXT: arrays[tasks.NEGATIVE]} if tasks.NEGATIVE in arrays else {})


def _of_network(c: ConfigDict) -> dict[str, Any]:
    return {
        "prediction": paths.parameterisation(c),
        "learned_variance": c.diffusion.variance == "learned_range",
    }


def _weaker(
    weaker: Guide, params: Any, schedule: Schedule, conditions: Arrays
) -> prediction.Denoiser:
    """The weaker model, with those of the conditions that it has."""
    c = weaker.config
    names = [name for name in conditioning.dropout(c) if name in conditions]
    own = {name: conditions[name] for name in names}
    return prediction.denoiser(
        weaker.apply, params, schedule, conditions=own or None, **_of_network(c)
    )


def _scales(request: Signature, numbers: jax.Array) -> list[Any]:
    """The scale of each branch: an argument, or the constants that leave one branch alone."""
    if request.only is None:
        return [*numbers]
    return [float(k == request.only) for k in range(len(numbers))]


def _interval(c: ConfigDict, schedule: Schedule) -> Callable[[Any], Scale]:
    """What makes of a scale one within the interval of noise levels that config.sample sets."""
    low, high = c.sample.guidance_low or 0.0, c.sample.guidance_high
    if not within_interval(c):
        return lambda scale: scale
    high = np.inf if high is None else high
    guidance.within(schedule, 1.0, low, high)  # refuses levels out of order now
    return lambda scale: guidance.within(schedule, scale, low, high)


def _shared(scale: Scale, share: jax.Array) -> Scale:
    """The share [B] of a scale that one of two branches gets."""
    if callable(scale):
        return lambda t: share * scale(t)
    return scale * share

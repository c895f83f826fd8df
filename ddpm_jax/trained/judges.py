"""The networks whose gradient guides: what a classifier or a CLIP finds probable of x_t."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.diffusion import guidance
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.trained import clip_tasks
from ddpm_jax.trained.signature import Guide, Signature
from ddpm_jax.trained.tasks import Task

Arrays = Mapping[str, Any]


class Judge(NamedTuple):
    """What guides by its gradient.

    Attributes:
      log_prob: (x_t [B, ...], t [B]) -> [B], up to what does not depend on x_t.
      scale: how often its gradient counts.
      noised: whether it was trained on x_t; else it judges what x_t is taken to have been.
    """

    log_prob: guidance.LogProb
    scale: jax.Array
    noised: bool


class Steered(NamedTuple):
    """What a sampler runs.

    Attributes:
      denoise: the denoiser.
      mean_gradient: what each step's mean is shifted by, times its variance; None for nothing.
    """

    denoise: Denoiser
    mean_gradient: guidance.Gradient | None = None


def check(c: ConfigDict, task: Task) -> None:
    """Raises UserError for config.sample.mean_gradient where no judge has a gradient."""
    if c.sample.get("mean_gradient") and task.classifier is None and task.clip is None:
        raise UserError(
            "config.sample.mean_gradient=True: no classifier or CLIP whose gradient shifts it; "
            "name its run too, or leave it unset"
        )


def of_task(
    request: Signature, schedule: Schedule, helpers: Arrays, numbers: Arrays, arrays: Arrays
) -> list[Judge]:
    """The judges of a task, those of clean images first.

    Args:
      request: the task's signature.
      schedule: the model's path.
      helpers, numbers, arrays: what the program is given, by name.
    """
    judges = []
    if request.clip is not None:
        log_prob = _clip_log_prob(request.clip, schedule, helpers["clip"], arrays)
        judges.append(Judge(log_prob, numbers["clip_scale"], request.clip.noised))
    if request.classifier is not None:
        log_prob = guidance.class_log_prob(
            request.classifier.apply, helpers["classifier"], schedule, arrays["label"]
        )
        judges.append(Judge(log_prob, numbers["classifier_scale"], request.classifier.noised))
    return judges


def steered(
    denoise: Denoiser, schedule: Schedule, judges: Sequence[Judge], *, by_mean: bool
) -> Steered:
    """The denoiser bent by the judges' gradients; or itself, and these for each step's mean.

    Args:
      denoise: the model's, however guided by its conditions.
      schedule: its path.
      judges: as of `of_task`.
      by_mean: the latter.
    """
    if not by_mean or not judges:
        for judge in judges:
            denoise = _bent(denoise, schedule, judge)
        return Steered(denoise)

    def of_judge(judge: Judge) -> guidance.Gradient:
        log_prob = judge.log_prob
        return guidance.gradient(
            log_prob if judge.noised else guidance.of_estimate(denoise, log_prob)
        )

    def mean_gradient(xt: jax.Array, t: jax.Array) -> jax.Array:
        return sum((one.scale * of_judge(one)(xt, t) for one in judges), jnp.zeros_like(xt))

    return Steered(denoise, mean_gradient)


def _bent(denoise: Denoiser, schedule: Schedule, judge: Judge) -> Denoiser:
    if not judge.noised:
        return guidance.by_estimate(denoise, schedule, judge.log_prob, judge.scale)
    gradient = guidance.gradient(judge.log_prob)
    return guidance.classifier(denoise, schedule, gradient, judge.scale)


def _clip_log_prob(
    clip: Guide, schedule: Schedule, params: Any, arrays: Arrays
) -> guidance.LogProb:
    """Its products; a text is embedded once, for all steps, and one that is empty is zeros."""
    apply = functools.partial(clip.apply, {"params": params})
    embeds = apply(arrays[clip_tasks.TOKENS], method="embed_texts")
    embeds = jnp.where(arrays[clip_tasks.STEERED][:, None], embeds, 0)

    def embed(xt: jax.Array, t: jax.Array) -> jax.Array:
        told = {"time": schedule.network_time(t)} if clip.noised else {}
        return apply(xt, method="embed_images", **told)

    return guidance.clip_log_prob(embed, embeds)

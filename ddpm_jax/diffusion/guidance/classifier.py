"""Classifier guidance (Dhariwal & Nichol 2021): the gradient of log p(y | x_t) bends a denoiser."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import process
from ddpm_jax.diffusion.prediction import Denoised, Denoiser
from ddpm_jax.diffusion.schedules import Schedule, expand

# (x_t [B, ...], t [B]) -> log p(y | x_t) [B]; its gradient [B, ...]
LogProb = Callable[[jax.Array, jax.Array], jax.Array]
Gradient = Callable[[jax.Array, jax.Array], jax.Array]


def classifier(
    denoise: Denoiser, schedule: Schedule, gradient: Gradient, scale: float | jax.Array = 1.0
) -> Denoiser:
    """eps = eps-hat - w sigma gradient: the score of q(x_t) p(y | x_t)^w, on any Gaussian path.

    On the paper's path sigma is sqrt(1 - alpha_bar). x_0 follows, x_0-hat + w sigma² / alpha
    gradient; where alpha = 0, x_t says nothing of y and nothing is changed.

    Sampled by `samplers.ancestral`, this shifts the mean of a step from t to s by
    (alpha_s / alpha_t) beta w gradient, beta = sigma_t² - (alpha_t / alpha_s)² sigma_s² being the
    step's forward variance. The paper's Algorithm 1, `ancestral(..., mean_gradient=)`, shifts it by
    Sigma w gradient: less, by the factor alpha_t / alpha_s with fixed_large variance, and by
    (alpha_t / alpha_s) sigma_s² / sigma_t² with fixed_small. The two meet as steps become small;
    only this one is exact at w = 1, the conditional denoiser if denoiser and classifier are exact.

    Args:
      denoise: the unconditional denoiser, (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path of both.
      gradient: (x_t, t) -> that of log p(y | x_t) by x_t, [B, ...]; see `gradient`.
      scale: w, a number or an array of shape (); the number 0 calls no classifier.

    Source: Dhariwal & Nichol 2021, Algorithm 2 and section 4.2.
    """
    if isinstance(scale, int | float) and scale == 0:
        return denoise

    def guided(xt: jax.Array, t: jax.Array) -> Denoised:
        return shifted(denoise(xt, t), schedule, xt, t, gradient(xt, t), scale)

    return guided


def shifted(
    out: Denoised,
    schedule: Schedule,
    xt: jax.Array,
    t: jax.Array,
    gradient: jax.Array,
    scale: float | jax.Array = 1.0,
) -> Denoised:
    """eps-hat - w sigma gradient, and x_0 with it; where alpha = 0, nothing is changed.

    Args:
      out: the denoiser's.
      schedule: its path.
      xt, t: where it was asked, [B, ...] and [B].
      gradient: of what is sought, by x_t, [B, ...].
      scale: w, a number or an array of shape ().
    """
    times = process.time_like(t, xt)
    alpha, sigma = expand(schedule.alpha(times), xt), expand(schedule.sigma(times), xt)
    informed = alpha > 0
    shift = jnp.where(informed, scale * sigma * gradient, 0)
    x0 = out.x0 + sigma / jnp.where(informed, alpha, 1) * shift
    return out._replace(x0=x0, eps=out.eps - shift)


def gradient(log_prob: LogProb) -> Gradient:
    """The gradient by x_t of a log p(y | x_t), of each example by itself: [B, ...]."""
    return jax.grad(lambda xt, t: log_prob(xt, t).sum())


def class_log_prob(
    apply_fn: Callable[..., Any], params: Any, schedule: Schedule, labels: jax.Array
) -> LogProb:
    """log p(label | x_t) of a classifier that was trained on noised inputs.

    Args:
      apply_fn: the classifier, (variables, x_t, time) -> logits [B, classes]; time in the units of
        `schedule.network_time`.
      params: its parameters.
      schedule: the path that noised its inputs.
      labels: int [B].
    """

    def log_prob(xt: jax.Array, t: jax.Array) -> jax.Array:
        logits = apply_fn({"params": params}, xt, schedule.network_time(t))
        log_probs = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
        return jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]

    return log_prob

"""Guidance: functions from a Denoiser to a Denoiser, freely composed."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import prediction
from ddpm_jax.diffusion.prediction import Denoised, Denoiser
from ddpm_jax.diffusion.schedules import Schedule, expand


def classifier_free(conditional: Denoiser, unconditional: Denoiser, scale: float) -> Denoiser:
    """eps = (1 - w) eps_uncond + w eps_cond: 0 unconditional, 1 conditional, above 1 guided.

    The same mixture of x_0 keeps x_t = alpha x_0 + sigma eps. At w = 1 and w = 0 only the branch
    that counts is called, so those are bit for bit the unguided denoisers.

    Source: Ho & Salimans 2022, equation 6, in the convention of Imagen (w = 1 + their w).
    """
    if scale == 1:
        return conditional
    if scale == 0:
        return unconditional

    def denoise(xt: jax.Array, t: jax.Array) -> Denoised:
        return _mix(unconditional(xt, t), conditional(xt, t), scale)

    return denoise


def classifier_free_network(
    apply_fn: prediction.Network,
    params: Any,
    schedule: Schedule,
    conditions: dict[str, jax.Array],
    null_conditions: dict[str, jax.Array],
    scale: float,
    *,
    prediction_name: str | prediction.Parameterisation = "eps",
    learned_variance: bool = False,
) -> Denoiser:
    """Classifier-free guidance of one network, both branches in one call of twice the batch.

    Args:
      apply_fn, params, schedule, prediction_name, learned_variance: as in `prediction.denoiser`.
      conditions: named arrays [B, ...].
      null_conditions: the same names, what the network was shown when a condition was dropped.
      scale: w, as in `classifier_free`.

    Raises:
      ValueError: if the two sets of conditions differ in their names.
    """
    if conditions.keys() != null_conditions.keys():
        raise ValueError(f"need the same names, got {[*conditions]} and {[*null_conditions]}")

    def branch(chosen: dict[str, jax.Array]) -> Denoiser:
        return prediction.denoiser(
            apply_fn,
            params,
            schedule,
            prediction=prediction_name,
            conditions=chosen,
            learned_variance=learned_variance,
        )

    if scale in (0, 1):
        return branch(conditions if scale == 1 else null_conditions)
    denoise_both = branch({k: _interleave(null_conditions[k], conditions[k]) for k in conditions})

    def denoise(xt: jax.Array, t: jax.Array) -> Denoised:
        out = denoise_both(_interleave(xt, xt), _interleave(t, t))
        first, second = (
            jax.tree.map(operator.itemgetter(slice(offset, None, 2)), out) for offset in (0, 1)
        )
        return _mix(first, second, scale)

    return denoise


def clip_x0(
    denoise: Denoiser, schedule: Schedule, low: float = -1.0, high: float = 1.0
) -> Denoiser:
    """Clip the estimate of x_0 to [low, high] and derive eps anew, as Ho et al.'s sampler does.

    Raises:
      ValueError: if low is not below high.
    """
    if not low < high:
        raise ValueError(f"need low < high, got {low=}, {high=}")
    return map_x0(denoise, schedule, lambda x0: jnp.clip(x0, low, high))


def threshold_x0(denoise: Denoiser, schedule: Schedule, quantile: float = 0.995) -> Denoiser:
    """Dynamic thresholding: scale x_0 into [-1, 1] by the quantile of its size, image by image.

    With q that quantile of an image's |x_0|, or 1 if it is less: x_0 is clipped to [-q, q] and
    divided by q. eps is derived anew. For pixels, not for latents.

    Raises:
      ValueError: unless 0 < quantile <= 1.

    Source: Saharia et al. 2022 (Imagen), section 2.3; 0.995 is the usual choice.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"need 0 < quantile <= 1, got {quantile=}")

    def change(x0: jax.Array) -> jax.Array:
        size = jnp.quantile(jnp.abs(x0.reshape(x0.shape[0], -1)), quantile, axis=1)
        size = expand(jnp.maximum(size, 1), x0)
        return jnp.clip(x0, -size, size) / size

    return map_x0(denoise, schedule, change)


def map_x0(
    denoise: Denoiser, schedule: Schedule, change: Callable[[jax.Array], jax.Array]
) -> Denoiser:
    """A denoiser whose x_0 went through `change`, with the eps that belongs to it."""

    def changed(xt: jax.Array, t: jax.Array) -> Denoised:
        out = denoise(xt, t)
        x0, eps, _ = prediction.from_x0(schedule, xt, t, change(out.x0))
        return Denoised(x0, eps, out.variance_fraction)

    return changed


def _interleave(first: jax.Array, second: jax.Array) -> jax.Array:
    """Two [B, ...] as one [2B, ...], example beside example: both stay on the example's device."""
    return jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


def _mix(unconditional: Denoised, conditional: Denoised, scale: float) -> Denoised:
    x0, eps = (
        (1 - scale) * u + scale * c for u, c in zip(unconditional[:2], conditional[:2], strict=True)
    )
    return Denoised(x0, eps, conditional.variance_fraction)

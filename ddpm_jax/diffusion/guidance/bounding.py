"""Bounds on the estimate of x_0, in the data's own range."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import prediction
from ddpm_jax.diffusion.prediction import Denoised, Denoiser
from ddpm_jax.diffusion.schedules import Schedule, expand


def clip_x0(
    denoise: Denoiser, schedule: Schedule, low: float = -1.0, high: float = 1.0
) -> Denoiser:
    """Clip the estimate of x_0 to [low, high] and derive eps again, as Ho et al.'s sampler does.

    Raises:
      ValueError: if low is not below high.
    """
    if not low < high:
        raise ValueError(f"need low < high, got {low=}, {high=}")
    return map_x0(denoise, schedule, lambda x0: jnp.clip(x0, low, high))


def threshold_x0(denoise: Denoiser, schedule: Schedule, quantile: float = 0.995) -> Denoiser:
    """Dynamic thresholding: scale x_0 into [-1, 1] by the quantile of its size, image by image.

    With q that quantile of an image's |x_0|, or 1 if it is less: x_0 is clipped to [-q, q] and
    divided by q. eps is derived again. For pixels, not for latents.

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


def bounded_x0(
    denoise: Denoiser, schedule: Schedule, *, clip: bool, threshold: float | None
) -> Denoiser:
    """The denoiser with x_0 clipped to [-1, 1], or dynamically thresholded, if either is asked for.

    Args:
      clip: clip it (`clip_x0`).
      threshold: the quantile of dynamic thresholding instead (`threshold_x0`); None for none.

    Raises:
      ValueError: if both are asked for, or the threshold is no quantile in (0, 1].
    """
    if clip and threshold is not None:
        raise ValueError(
            f"clip_x0=True and {threshold=} both bound x_0: choose one, clip_x0=False to threshold "
            "or threshold=None to clip"
        )
    if threshold is not None:
        return threshold_x0(denoise, schedule, threshold)
    return clip_x0(denoise, schedule) if clip else denoise


def map_x0(
    denoise: Denoiser, schedule: Schedule, change: Callable[[jax.Array], jax.Array]
) -> Denoiser:
    """A denoiser whose x_0 went through `change`, with the eps that belongs to it."""

    def changed(xt: jax.Array, t: jax.Array) -> Denoised:
        out = denoise(xt, t)
        x0, eps, _ = prediction.from_x0(schedule, xt, t, change(out.x0))
        return Denoised(x0, eps, out.variance_fraction)

    return changed

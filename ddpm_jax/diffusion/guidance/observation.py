"""Posterior sampling: a denoiser bent towards a linear observation y = A x_0 + noise.

Colourisation, super-resolution and inpainting by a model that was not trained for them.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import process
from ddpm_jax.diffusion.prediction import Denoised, Denoiser
from ddpm_jax.diffusion.schedules import Schedule, expand

# x [B, ...] -> A x [B, ...], linear
Measure = Callable[[jax.Array], jax.Array]
# ITU-R BT.601's weights of red, green and blue, those of Pillow's mode "L".
LUMA = (0.299, 0.587, 0.114)


def observed(
    denoise: Denoiser,
    schedule: Schedule,
    measure: Measure,
    y: jax.Array,
    *,
    noise_std: float | jax.Array = 0.0,
    data_std: float = 1.0,
) -> Denoiser:
    """eps = eps-hat - sigma g, g the gradient by x_t of log N(y; A x_0-hat, r² A A^T + noise_std²).

    r² = data_std² sigma² / (alpha² data_std² + sigma²) is the variance of x_0 given x_t where x_0
    is N(., data_std² I). On such data this is the conditional denoiser; on other data it is near
    it, and exact samples of the posterior are not to be expected. x_0 follows, x_0-hat + sigma² /
    alpha g; where alpha = 0 that is not known, and takes its value on such data. Where sigma = 0,
    x_t is x_0 and nothing is changed.

    Each evaluation is one call of the denoiser and one vector-Jacobian product through it.

    Args:
      denoise: the unconditional denoiser, (x_t [B, ...], t [B]) -> Denoised.
      schedule: its path.
      measure: A, linear, its rows orthogonal: `grey`, `average_pool`, `masked`.
      y: what was observed, of the shape of measure(x).
      noise_std: the standard deviation of its noise, at least 0; an array of shape () is above 0.
      data_std: that of the entries of x_0, above 0; 1 in the paper.

    Raises:
      ValueError: for a deviation out of range; when called, for a y that has not the shape of A x,
        or a measure that is not linear or whose rows are not orthogonal.

    Source: Song et al. 2023, "Pseudoinverse-guided diffusion models for inverse problems", section
    3, with its r² carried to any path and data_std.
    """
    exact = isinstance(noise_std, int | float) and noise_std == 0
    in_range = isinstance(noise_std, jax.Array) or 0 <= noise_std < math.inf
    if not (in_range and 0 < data_std < math.inf):
        raise ValueError(
            f"need 0 <= noise_std < inf and 0 < data_std < inf, got {noise_std=}, {data_std=}"
        )

    def conditional(xt: jax.Array, t: jax.Array) -> Denoised:
        _check(measure, xt, y)
        times = process.time_like(t, xt)
        alpha, sigma = schedule.alpha(times), schedule.sigma(times)
        # r² = sigma² / precision: no sigma², which may be too small for float32, is divided by.
        precision = alpha**2 + (sigma / data_std) ** 2

        def estimate(xt: jax.Array) -> tuple[jax.Array, Denoised]:
            out = denoise(xt, t)
            return out.x0, out

        x0, through_denoiser, out = jax.vjp(estimate, xt, has_aux=True)
        residual, transpose = _residual(measure, x0, y)
        sizes = measure(*transpose(jnp.ones_like(residual)))  # the diagonal of A A^T
        if exact:
            weight = _divide(expand(precision, sizes), sizes)
        else:
            spread = expand(sigma**2, sizes) * sizes + expand(precision * noise_std**2, sizes)
            weight = _divide(expand(precision * sigma**2, sizes), spread)
        (back,) = transpose(weight * residual)
        (gradient,) = through_denoiser(back)  # times sigma²
        alpha, sigma, precision = (expand(v, xt) for v in (alpha, sigma, precision))
        shift = jnp.where(alpha > 0, _divide(gradient, alpha), _divide(back, precision))
        shift = jnp.where(sigma > 0, shift, 0)
        return out._replace(x0=out.x0 + shift, eps=out.eps - _divide(alpha * shift, sigma))

    return conditional


def grey(x: jax.Array, weights: Sequence[float] = LUMA) -> jax.Array:
    """The weighted sum of an image's channels, [B, ..., C] -> [B, ..., 1]: to colourise.

    Args:
      x: the images.
      weights: [C], summing to 1 to keep the range.

    Raises:
      ValueError: unless there is one weight for each channel.
    """
    if x.shape[-1] != len(weights):
        raise ValueError(f"need one weight for each channel, got {len(weights)} for {x.shape}")
    # Not a matrix product: that may run in fewer bits on an accelerator.
    factors = jnp.asarray(weights, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    return (x * factors).sum(axis=-1, keepdims=True)


def average_pool(factor: int) -> Measure:
    """x [B, H, W, C] -> the means of its factor x factor blocks, [B, H / factor, W / factor, C].

    To enlarge images (super-resolution).

    Raises:
      ValueError: for a factor below 1; when called, for images that it does not divide.
    """
    if factor < 1:
        raise ValueError(f"need factor >= 1, got {factor=}")

    def measure(x: jax.Array) -> jax.Array:
        if x.ndim != 4 or x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(f"need images [B, H, W, C] that {factor=} divides, got {x.shape}")
        batch, height, width, channels = x.shape
        blocks = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
        return blocks.mean(axis=(2, 4))

    return measure


def masked(mask: jax.Array) -> Measure:
    """x -> x where it is known, and 0 elsewhere: to inpaint.

    Args:
      mask: 1 where to paint, 0 where known, as in `samplers.replacement`; of x's shape, or
        broadcasting to it with as many axes.

    Raises:
      ValueError: when called, for x of another shape.
    """

    def measure(x: jax.Array) -> jax.Array:
        check_mask(mask, x.shape)
        return jnp.where(jnp.broadcast_to(mask, x.shape) > 0, 0, x)

    return measure


def check_mask(mask: jax.Array, shape: tuple[int, ...]) -> None:
    """Raise ValueError for a mask that does not broadcast to the shape with as many axes."""
    if mask.ndim != len(shape) or any(
        m not in (1, k) for m, k in zip(mask.shape, shape, strict=True)
    ):
        raise ValueError(f"need a mask that broadcasts to {shape}, got {mask.shape}")


def _residual(
    measure: Measure, x0: jax.Array, y: jax.Array
) -> tuple[jax.Array, Callable[[jax.Array], tuple[jax.Array]]]:
    """y - A x_0-hat, and A^T."""
    measured, transpose = jax.vjp(measure, x0)
    return jnp.asarray(y, measured.dtype) - measured, transpose


def _divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient, and 0 where the denominator is 0."""
    vanishes = denominator == 0
    return jnp.where(vanishes, 0, numerator / jnp.where(vanishes, 1, denominator))


def _check(measure: Measure, xt: jax.Array, y: jax.Array) -> None:
    measured = jax.eval_shape(measure, xt)
    if measured.shape != y.shape:
        raise ValueError(f"need y of the shape of measure(x), {measured.shape}, got {y.shape}")
    probe = np.random.default_rng(0).standard_normal(y.shape)
    try:
        with jax.ensure_compile_time_eval():
            zero, transpose = jax.vjp(measure, jnp.zeros(xt.shape, xt.dtype))
            again, sizes = (
                np.asarray(measure(*transpose(jnp.asarray(v, xt.dtype))))
                for v in (probe, np.ones_like(probe))
            )
            offset = np.abs(np.asarray(zero)).max()
    except jax.errors.TracerArrayConversionError:
        return  # it depends on traced values, and cannot be looked at
    # Of orthogonal rows A A^T is diagonal, and its diagonal is what it makes of ones.
    if offset > 0 or not np.allclose(again, sizes * probe, rtol=1e-3, atol=1e-3 * sizes.max()):
        raise ValueError(
            "measure must be linear with orthogonal rows (A A^T diagonal), such as grey, "
            "average_pool or masked; this one is not"
        )

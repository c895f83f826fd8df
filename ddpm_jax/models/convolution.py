"""Convolutions as CPUs are fast at them: gradients of kernels by rows, and of enlarged images."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# How the gradient of a kernel is computed.
PLAIN, ROWS = "plain", "rows"
Pads = tuple[tuple[int, int], tuple[int, int]]


def convolution(kernel_gradient: str) -> Callable[..., jax.Array]:
    """`jax.lax.conv_general_dilated`, or the same with another gradient of its kernel.

    XLA has the gradient as a convolution whose window is the whole image and whose channels are
    the batch. By rows it is one convolution along the height for each column of the kernel, whose
    channels are the batch and the width. On two AVX2 cores, in float32, of 3x3 pixels:

      [B, H, W, C] -> channels    plain     by rows    the forward pass
      [8, 32, 32, 128] -> 128     53 ms     21 ms      25 ms
      [8, 32, 32, 256] -> 128    107 ms     40 ms      46 ms
      [8, 16, 16, 256] -> 256     42 ms     19 ms      24 ms
      [8, 8, 8, 256] -> 256      7.4 ms    6.2 ms     6.1 ms
      [8, 4, 4, 256] -> 256      3.0 ms    2.4 ms     2.2 ms
      [64, 8, 8, 32] -> 32       2.0 ms    1.8 ms     1.2 ms
      [64, 8, 8, 64] -> 32       5.0 ms    1.7 ms
      [2, 64, 64, 192] -> 192    108 ms     46 ms
      [8, 32, 32, 3] -> 128      1.9 ms    2.3 ms
      [8, 32, 32, 128] -> 3      6.6 ms    1.5 ms

    It has no forward-mode derivative. What it does not take is computed plainly: other strides than
    1, dilations, groups, kernels of one pixel, and half precision, which CPUs compute in float32.

    Args:
      kernel_gradient: "plain" or "rows".

    Raises:
      ValueError: for an unknown form.
    """
    if kernel_gradient not in (PLAIN, ROWS):
        raise ValueError(f"need a kernel gradient of {PLAIN} or {ROWS}, got {kernel_gradient!r}")
    return jax.lax.conv_general_dilated if kernel_gradient == PLAIN else _by_rows_or_plain


def enlarging(kernel_gradient: str) -> Callable[..., jax.Array]:
    """A convolution of 3x3 pixels after `layers.upsample_nearest`, from the image before it.

    Each of four pixels sees at most 2x2 of the small image, through sums of the kernel's taps: four
    convolutions with 4 taps for 9. The result is that of the large image up to rounding. On two
    AVX2 cores it takes half the time, and its gradients a half to a third.

    Args:
      kernel_gradient: as of `convolution`.

    Returns:
      A function with its arguments, for strides of 1 and padding "SAME": [B, H, W, C] ->
      [B, 2H, 2W, C'].
    """
    convolve = convolution(kernel_gradient)

    def enlarged(
        x: jax.Array, kernel: jax.Array, *_: Any, lhs_dilation: Any = None, **options: Any
    ) -> jax.Array:
        def convolved_enlarged(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return of_pixels(x, kernel, options)

        # By its name `measures.model_flop` counts it as the convolution of the large image.
        return jax.jit(convolved_enlarged)(x, kernel)

    def of_pixels(x: jax.Array, kernel: jax.Array, options: dict[str, Any]) -> jax.Array:
        def pixel(i: int, j: int) -> jax.Array:
            taps = _taps_of(_taps_of(kernel, i).swapaxes(0, 1), j).swapaxes(0, 1)
            return convolve(x, taps, (1, 1), ((1 - i, i), (1 - j, j)), **options)

        pixels = jnp.stack([jnp.stack([pixel(i, j) for j in (0, 1)], axis=3) for i in (0, 1)], 2)
        batch, height, width, channels = x.shape[0], x.shape[1], x.shape[2], kernel.shape[-1]
        return pixels.reshape(batch, 2 * height, 2 * width, channels)

    return enlarged


def _taps_of(kernel: jax.Array, place: int) -> jax.Array:
    """Three taps along the first axis as the two that the first or second of two pixels sees."""
    first, middle, last = kernel
    return jnp.stack([first, middle + last] if place == 0 else [first + middle, last])


def _by_rows_or_plain(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """As `jax.lax.conv_general_dilated` is called by flax. [B, H, W, C] -> [B, H', W', C']."""
    pads = _taken(x, kernel, window_strides, padding, **options)
    if pads is None:
        return jax.lax.conv_general_dilated(x, kernel, window_strides, padding, **options)
    return _convolved(x, kernel, pads, options["precision"])


def _taken(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    dimension_numbers: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    **_: Any,
) -> Pads | None:
    """The padding in pixels, of a convolution that goes by rows; None for another."""
    if x.ndim != 4 or x.dtype not in (jnp.float32, jnp.float64):
        return None
    if jax.lax.conv_dimension_numbers(x.shape, kernel.shape, dimension_numbers) != _numbers(2):
        return None
    factors = (*window_strides, *(lhs_dilation or ()), *(rhs_dilation or ()), feature_group_count)
    window = kernel.shape[:2]
    if any(factor != 1 for factor in factors) or window == (1, 1):
        return None
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], window, window_strides, padding)
    (top, bottom), (left, right) = padding
    # The roles of image and gradient change where the padding is less than the kernel.
    if not all(0 <= pad < window[0] for pad in (top, bottom)):
        return None
    if not all(0 <= pad < window[1] for pad in (left, right)):
        return None
    return (top, bottom), (left, right)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolved(x: jax.Array, kernel: jax.Array, pads: Pads, precision: Any) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), pads, dimension_numbers=_numbers(2), precision=precision
    )


def _forward(x: jax.Array, kernel: jax.Array, pads: Pads, precision: Any) -> Any:
    return _convolved(x, kernel, pads, precision), (x, kernel)


def _backward(pads: Pads, precision: Any, kept: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    plain = functools.partial(
        jax.lax.conv_general_dilated,
        rhs=kernel,
        window_strides=(1, 1),
        padding=pads,
        dimension_numbers=_numbers(2),
        precision=precision,
    )
    (of_x,) = jax.linear_transpose(plain, x)(g)
    height, width = kernel.shape[:2]
    if x.shape[-1] <= g.shape[-1]:
        return of_x, correlated(x, g, (height, width), pads, precision)
    # The one of fewer channels is the image, which is shifted.
    (top, bottom), (left, right) = pads
    around = (
        (height - 1 - top, height - 1 - bottom),
        (width - 1 - left, width - 1 - right),
    )
    flipped = correlated(g, x, (height, width), around, precision)
    return of_x, flipped[::-1, ::-1].swapaxes(2, 3)


_convolved.defvjp(_forward, _backward)


def correlated(
    x: jax.Array, y: jax.Array, window: tuple[int, int], pads: Pads, precision: Any = None
) -> jax.Array:
    """Sums over b, h and w of x[b, h + i, w + j, c] y[b, h, w, d], x padded by zeros.

    Args:
      x: [B, H, W, C].
      y: [B, H', W', D], of the size of a convolution of x by that window and padding.
      window: (height, width), the ranges of i and j.
      pads: ((top, bottom), (left, right)), at least 0.
      precision: of the products.

    Returns:
      [height, width, C, D].
    """
    batch, height, width, channels = y.shape
    rows = y.transpose(1, 0, 2, 3).reshape(height, batch * width, channels)
    turned = jnp.pad(x.transpose(3, 1, 0, 2), ((0, 0), (0, 0), (0, 0), pads[1]))

    def column(j: int) -> jax.Array:  # [C, i, D]
        part = turned[..., j : j + width].reshape(*turned.shape[:2], -1)
        return jax.lax.conv_general_dilated(
            part, rows, (1,), pads[:1], dimension_numbers=_numbers(1), precision=precision
        )

    columns = jnp.stack([column(j) for j in range(window[1])])
    return columns.transpose(2, 0, 1, 3)


def _numbers(dimensions: int) -> jax.lax.ConvDimensionNumbers:
    """Channels last in images, and the window first in kernels."""
    shape = (1,) * (dimensions + 2)
    spec = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}[dimensions]
    return jax.lax.conv_dimension_numbers(shape, shape, spec)

"""The layers that the U-Net is made of, but for attention."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.models.convolution import PLAIN, convolution, enlarging


def initializer(scale: float = 1.0) -> nn.initializers.Initializer:
    """Ho et al.'s weights: uniform, variance scale / fan_avg; a scale of 0 becomes 1e-10."""
    return nn.initializers.variance_scaling(scale or 1e-10, "fan_avg", "uniform")


def sinusoidal_embedding(
    time: jax.Array, width: int, *, freq_shift: float = 1.0, flip_sin_to_cos: bool = False
) -> jax.Array:
    """[sin, cos] of time at `width` // 2 frequencies from 1 down to about 1e-4. [B] -> [B, width].

    Args:
      time: in the network's units, [B].
      width: channels of the result; an odd width is padded with a zero.
      freq_shift: frequencies are 1e4^(-i / (width // 2 - freq_shift)); 1 in Ho et al.
      flip_sin_to_cos: put the cosines first.

    Source: Ho et al. 2020, appendix B (their code's get_timestep_embedding).
    """
    half = width // 2
    exponent = -jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angles = time.astype(jnp.float32)[:, None] * jnp.exp(exponent)[None, :]
    parts = [jnp.sin(angles), jnp.cos(angles)]
    embedding = jnp.concatenate(parts[::-1] if flip_sin_to_cos else parts, axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, width % 2)))


def upsample_nearest(x: jax.Array) -> jax.Array:
    """Every pixel twice along both axes. [B, H, W, C] -> [B, 2H, 2W, C]."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Of each pixel of an image of that size the one of x at its place. [B, H, W, C].

    The place i of n is floor(i m / n) of m, as in torch's `interpolate`.
    """
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, x.shape[1:3], strict=True))
    return x[:, rows][:, :, columns]


def downsample_mean(x: jax.Array) -> jax.Array:
    """The mean of every 2x2 pixels. [B, H, W, C], H and W even -> [B, H/2, W/2, C]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


class GroupNorm(nn.Module):
    """What flax's GroupNorm computes, from sums of each channel, which CPUs do faster.

    Those sums run along contiguous channels, and the pixels then meet one slope and one offset of
    their channel. A forward pass of the digits' U-Net on two CPU cores takes a sixth less time.

    Attributes:
      num_groups: dividing the channels.
      epsilon: added to the variance.
      dtype: of the output; the statistics are float32.
      scale_init: of the scale.
      use_fast_variance: the variance is the mean square less the squared mean, of one pass over the
        pixels. Where a group's mean is a hundred deviations, which groups of one channel can have,
        that loses four digits; the other way takes the squares around the mean.

    Source: Wu and He 2018, "Group Normalization".
    """

    num_groups: int = 32
    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    scale_init: Any = nn.initializers.ones
    use_fast_variance: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, ..., C] -> [B, ..., C]
        batch, channels = x.shape[0], x.shape[-1]
        pixels = x.reshape(batch, -1, channels).astype(jnp.promote_types(x.dtype, jnp.float32))
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        def of_groups(sums: jax.Array) -> jax.Array:  # [B, C] -> [B, groups, 1]
            means = sums.reshape(batch, self.num_groups, -1).mean(axis=-1, keepdims=True)
            return means / pixels.shape[1]

        def of_channels(groups: jax.Array) -> jax.Array:  # [B, groups, 1] -> [B, C]
            size = channels // self.num_groups
            return jnp.broadcast_to(groups, (batch, self.num_groups, size)).reshape(batch, channels)

        def squares(y: jax.Array) -> jax.Array:  # [B, pixels, C] -> [B, groups, 1]
            # As a product: XLA then reads the input itself instead of computing it a second time.
            return of_groups(jnp.einsum("bpc,bpc->bc", y, y, precision=jax.lax.Precision.HIGHEST))

        mean = of_groups(pixels.sum(axis=1))
        if self.use_fast_variance:
            variance = jnp.maximum(squares(pixels) - mean**2, 0)
        else:
            pixels -= of_channels(mean)[:, None]
            variance, mean = squares(pixels), jnp.zeros_like(mean)
        slope = of_channels(jax.lax.rsqrt(variance + self.epsilon)) * scale[None]
        offset = bias[None] - of_channels(mean) * slope
        return (pixels * slope[:, None] + offset[:, None]).reshape(x.shape).astype(self.dtype)


class ResidualBlock(nn.Module):
    """GroupNorm, swish, convolution, twice, with an embedding added (or scaling) in between.

    Attributes:
      width: output channels.
      num_groups, norm_epsilon, use_fast_variance: of both GroupNorms.
      dropout: rate, before the second convolution.
      scale_shift_norm: the embedding scales and shifts the second norm (ADM), else it is added.
      resample: "down" averages pixels 2x2, "up" repeats them, both inside the block and in its
        shortcut (BigGAN); "" keeps the resolution.
      residual_scale: of the sum.
      kernel_gradient: as of `convolution.convolution`; but for "plain", repeated pixels are
        convolved by `convolution.enlarging`.
      dtype: of the computation; parameters stay float32.
    """

    width: int
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    dropout: float = 0.0
    scale_shift_norm: bool = False
    resample: str = ""
    residual_scale: float = 1.0
    kernel_gradient: str = PLAIN
    dtype: Any = jnp.float32
    use_fast_variance: bool = True

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        embedding: jax.Array | None,
        train: bool = False,
        skip: jax.Array | None = None,
    ) -> jax.Array:  # [B, H, W, C], [B, E] or None -> [B, H', W', width]
        """The block's output.

        Args:
          x: [B, H, W, C].
          embedding: [B, E]; None for a block without one.
          train: turns dropout on.
          skip: [B, H, W, C'], further channels of the input: joined in here, so that a block whose
            inputs are kept for the backward pass keeps no copy of both.
        """
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=-1)

        def norm(name: str) -> GroupNorm:
            return GroupNorm(
                self.num_groups,
                self.norm_epsilon,
                self.dtype,
                use_fast_variance=self.use_fast_variance,
                name=name,
            )

        def conv(name: str, scale: float = 1.0, form: Any = convolution) -> nn.Conv:
            return nn.Conv(
                self.width,
                (3, 3),
                dtype=self.dtype,
                kernel_init=initializer(scale),
                conv_general_dilated_cls=lambda: form(self.kernel_gradient),
                name=name,
            )

        resized = {"": lambda y: y, "up": upsample_nearest, "down": downsample_mean}[self.resample]
        h = nn.swish(norm("norm_0")(x))
        if self.resample == "up" and self.kernel_gradient != PLAIN:
            h = conv("conv_0", form=enlarging)(h)
        else:
            h = conv("conv_0")(resized(h))
        x = resized(x)
        if embedding is None:
            h = norm("norm_1")(h)
        else:
            projected = nn.Dense(
                self.width * (2 if self.scale_shift_norm else 1),
                dtype=self.dtype,
                kernel_init=initializer(),
                name="embedding",
            )(nn.swish(embedding))[:, None, None, :]
            if self.scale_shift_norm:
                scale, shift = jnp.split(projected, 2, axis=-1)
                h = norm("norm_1")(h) * (1 + scale) + shift
            else:
                h = norm("norm_1")(h + projected)
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.swish(h))
        h = conv("conv_1", scale=0.0)(h)
        if x.shape[-1] != self.width:
            x = nn.Dense(self.width, dtype=self.dtype, kernel_init=initializer(), name="shortcut")(
                x
            )
        return (x + h) * self.residual_scale

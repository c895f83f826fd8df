"""The layers that the U-Net is made of."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


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

    Source: Wu and He 2018, "Group Normalization".
    """

    num_groups: int = 32
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, ..., C] -> [B, ..., C]
        batch, channels = x.shape[0], x.shape[-1]
        pixels = x.reshape(batch, -1, channels).astype(jnp.promote_types(x.dtype, jnp.float32))
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        def of_groups(sums: jax.Array) -> jax.Array:  # [B, C] -> [B, groups, 1]
            means = sums.reshape(batch, self.num_groups, -1).mean(axis=-1, keepdims=True)
            return means / pixels.shape[1]

        # As a product: XLA then reads the input itself instead of computing it a second time.
        squares = jnp.einsum("bpc,bpc->bc", pixels, pixels, precision=jax.lax.Precision.HIGHEST)
        mean = of_groups(pixels.sum(axis=1))
        variance = jnp.maximum(of_groups(squares) - mean**2, 0)

        def of_channels(groups: jax.Array) -> jax.Array:  # [B, groups, 1] -> [B, C]
            size = channels // self.num_groups
            return jnp.broadcast_to(groups, (batch, self.num_groups, size)).reshape(batch, channels)

        slope = of_channels(jax.lax.rsqrt(variance + self.epsilon)) * scale[None]
        offset = bias[None] - of_channels(mean) * slope
        return (pixels * slope[:, None] + offset[:, None]).reshape(x.shape).astype(self.dtype)


class ResidualBlock(nn.Module):
    """GroupNorm, swish, convolution, twice, with the embedding added (or scaling) in between.

    Attributes:
      width: output channels.
      num_groups, norm_epsilon: of both GroupNorms.
      dropout: rate, before the second convolution.
      scale_shift_norm: the embedding scales and shifts the second norm (ADM), else it is added.
      resample: "down" averages pixels 2x2, "up" repeats them, both inside the block and in its
        shortcut (BigGAN); "" keeps the resolution.
      residual_scale: of the sum.
      dtype: of the computation; parameters stay float32.
    """

    width: int
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    dropout: float = 0.0
    scale_shift_norm: bool = False
    resample: str = ""
    residual_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        embedding: jax.Array,
        train: bool = False,
        skip: jax.Array | None = None,
    ) -> jax.Array:  # [B, H, W, C], [B, E] -> [B, H', W', width]
        """The block's output.

        Args:
          x: [B, H, W, C].
          embedding: [B, E].
          train: turns dropout on.
          skip: [B, H, W, C'], further channels of the input: joined in here, so that a block whose
            inputs are kept for the backward pass keeps no copy of both.
        """
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=-1)

        def norm(name: str) -> GroupNorm:
            return GroupNorm(self.num_groups, self.norm_epsilon, self.dtype, name=name)

        def conv(name: str, scale: float = 1.0) -> nn.Conv:
            return nn.Conv(
                self.width, (3, 3), dtype=self.dtype, kernel_init=initializer(scale), name=name
            )

        resized = {"": lambda y: y, "up": upsample_nearest, "down": downsample_mean}[self.resample]
        h = conv("conv_0")(resized(nn.swish(norm("norm_0")(x))))
        x = resized(x)
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


class Attention(nn.Module):
    """Self-attention over the pixels, with a residual connection.

    Attributes:
      head_dim: channels of a head, dividing the channels; None for a single head.
      num_groups, norm_epsilon: of the GroupNorm before it; 0 groups for no norm at all.
      residual_scale: of the sum.
      dtype: of the computation; the softmax runs in float32.
    """

    head_dim: int | None = None
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    residual_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, H, W, C]
        b, h, w, c = x.shape
        head_dim = self.head_dim or c

        def dense(name: str, scale: float = 1.0) -> nn.Dense:
            return nn.Dense(c, dtype=self.dtype, kernel_init=initializer(scale), name=name)

        y = x
        if self.num_groups:
            y = GroupNorm(self.num_groups, self.norm_epsilon, self.dtype, name="norm")(x)
        y = y.reshape(b, h * w, c)
        query, key, value = (
            dense(name)(y).reshape(b, h * w, c // head_dim, head_dim)
            for name in ("query", "key", "value")
        )
        y = jax.nn.dot_product_attention(query, key, value).reshape(b, h, w, c)
        return (x + dense("out", scale=0.0)(y)) * self.residual_scale


class CrossAttention(nn.Module):
    """Pixels read a sequence of tokens, with a residual connection.

    One more token is learned: what an image without any token reads.

    Attributes:
      head_dim, num_groups, norm_epsilon, residual_scale, dtype: as in `Attention`.
    """

    head_dim: int | None = None
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    residual_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, tokens: jax.Array, mask: jax.Array
    ) -> jax.Array:  # [B, H, W, C], [B, L, D], bool [B, L] -> [B, H, W, C]
        b, h, w, c = x.shape
        head_dim = self.head_dim or c
        none = self.param("no_token", nn.initializers.normal(1.0), (1, 1, tokens.shape[-1]))
        tokens = jnp.concatenate([jnp.broadcast_to(none, (b, *none.shape[1:])), tokens], axis=1)
        mask = jnp.concatenate([~mask.any(axis=1, keepdims=True), mask], axis=1)

        def dense(name: str, scale: float = 1.0) -> nn.Dense:
            return nn.Dense(c, dtype=self.dtype, kernel_init=initializer(scale), name=name)

        def heads(y: jax.Array) -> jax.Array:
            return y.reshape(b, -1, c // head_dim, head_dim)

        y = x
        if self.num_groups:
            y = GroupNorm(self.num_groups, self.norm_epsilon, self.dtype, name="norm")(x)
        y = jax.nn.dot_product_attention(
            heads(dense("query")(y)),
            heads(dense("key")(tokens.astype(self.dtype))),
            heads(dense("value")(tokens.astype(self.dtype))),
            mask=mask[:, None, None, :],
        ).reshape(b, h, w, c)
        return (x + dense("out", scale=0.0)(y)) * self.residual_scale


class AttentionPool(nn.Module):
    """One vector of an image: its mean pixel attends to all of its pixels, each at its place.

    Attributes:
      features: of the vector.
      head_dim: channels of a head, dividing the channels.
      dtype: of the computation; the softmax runs in float32.

    Source: Radford et al. 2021 (CLIP), section 2.4; as the last layer of ADM's classifier,
      Dhariwal & Nichol 2021, section 4.
    """

    features: int
    head_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, features]
        b, h, w, c = x.shape
        tokens = x.reshape(b, h * w, c)
        tokens = jnp.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)
        places = self.param("places", nn.initializers.normal(c**-0.5), (1, h * w + 1, c))
        tokens = tokens + places.astype(tokens.dtype)

        def heads(name: str, y: jax.Array) -> jax.Array:
            dense = nn.Dense(c, dtype=self.dtype, kernel_init=initializer(), name=name)
            return dense(y).reshape(b, -1, c // self.head_dim, self.head_dim)

        pooled = jax.nn.dot_product_attention(
            heads("query", tokens[:, :1]), heads("key", tokens), heads("value", tokens)
        ).reshape(b, c)
        return nn.Dense(self.features, dtype=self.dtype, kernel_init=initializer(), name="out")(
            pooled
        )

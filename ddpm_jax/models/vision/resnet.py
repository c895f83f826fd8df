"""CLIP's residual network: three convolutions first, blurred strides, attention in place of a mean.

Batch norms normalise by `mean` and `variance`, which are parameters like any other: a network is
one tree, whose features of an image depend on that image alone. With `train=True` they take the
batch's own instead, no gradient reaches the two, and `batch_statistics` gives what they were:
whoever trains so sets the two from a pass over the data at the end (Wu and Johnson 2021). For one's
own trainings there is `norm="group"`, which has nothing to set: an image's embedding never depends
on its batch, so a batch in parts or on several devices is the batch.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.attention import AttentionPool
from ddpm_jax.models.layers import GroupNorm
from ddpm_jax.models.vision.transformer import ImageFeatures, check_size

BATCH, GROUP = "batch", "group"
NORMS = (BATCH, GROUP)
STATISTICS = "batch_statistics"
STEM = 3
EXPANSION = 4


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon), channel by channel, then a scale and an offset.

    Attributes:
      epsilon: added to the variance.
      dtype: of the output; the arithmetic is float32.
      scale_init: of the scale.

    Source: Ioffe and Szegedy 2015.
    """

    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    scale_init: Any = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:  # [B, H, W, C], same
        shape = (x.shape[-1],)
        mean = jax.lax.stop_gradient(self.param("mean", nn.initializers.zeros, shape))
        variance = jax.lax.stop_gradient(self.param("variance", nn.initializers.ones, shape))
        scale = self.param("scale", self.scale_init, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train:
            mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
            self.sow(STATISTICS, "mean", mean, reduce_fn=_newest)
            self.sow(STATISTICS, "variance", variance, reduce_fn=_newest)
        slope = jax.lax.rsqrt(variance + self.epsilon) * scale
        return (
            (x - mean[None, None, None]) * slope[None, None, None] + bias[None, None, None]
        ).astype(self.dtype)


def _newest(before: Any, now: jax.Array) -> jax.Array:
    return now


def batch_statistics(
    network: nn.Module, params: Mapping[str, Any], *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """The means and variances of a batch in every batch norm, in the places that params has them.

    The variances divide by the number of values, not by one less.

    Args:
      network, params: called as network.apply({"params": params}, *args, train=True, **kwargs).
    """
    _, sown = network.apply({"params": params}, *args, train=True, mutable=[STATISTICS], **kwargs)
    return dict(sown.get(STATISTICS, {}))


class Bottleneck(nn.Module):
    """Convolutions of 1, 3 and 1 pixels with a residual connection; a mean of pixels strides.

    Attributes:
      width: of the two inner convolutions; the output has 4 times as many channels.
      stride: 1 or 2.
      norm, num_groups, dtype: as in `ModifiedResNet`.
    """

    width: int
    stride: int = 1
    norm: str = BATCH
    num_groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:  # [B, H, W, C]
        features = EXPANSION * self.width
        layers = Layers(self.norm, self.num_groups, self.dtype, train)
        y = nn.relu(layers.norm("norm_0", layers.conv("conv_0", self.width, 1)(x)))
        y = nn.relu(layers.norm("norm_1", layers.conv("conv_1", self.width, 3)(y)))
        y = _shrunk(y, self.stride)
        # At first a block is its shortcut.
        y = layers.norm("norm_2", layers.conv("conv_2", features, 1)(y), zero=True)
        if self.stride > 1 or x.shape[-1] != features:
            x = _shrunk(x, self.stride)
            x = layers.norm("norm_shortcut", layers.conv("conv_shortcut", features, 1)(x))
        return nn.relu(x + y)


class ModifiedResNet(nn.Module):
    """Images to features: a residual network whose pixels are pooled by attention.

    Attributes:
      image_size: height and width, or both in one; a whole multiple of 32.
      layers: blocks of each of four stages.
      width: of the first stage.
      num_heads: of the attention that pools; its width is 32 `width`.
      embed_dim: of the embedding.
      norm: "batch" as CLIP has it, or "group"; see the module.
      num_groups: of the latter.
      dtype: of the computation; norms and softmax run in float32.

    Raises:
      ValueError: for images of another size, or an unknown norm.

    Source: Radford et al. 2021 (CLIP), section 2.4 and their code.
    """

    image_size: int | tuple[int, int] = 224
    layers: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    num_heads: int = 32
    embed_dim: int = 1024
    norm: str = BATCH
    num_groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> ImageFeatures:  # [B, H, W, C]
        check_size(images, self.image_size)
        if self.norm not in NORMS:
            raise ValueError(f"need a norm of {', '.join(NORMS)}, got {self.norm!r}")
        layers = Layers(self.norm, self.num_groups, self.dtype, train)
        x = images.astype(self.dtype)
        for k in range(STEM):
            features = self.width if k == STEM - 1 else self.width // 2
            x = layers.conv(f"conv_{k}", features, 3, stride=2 if k == 0 else 1)(x)
            x = nn.relu(layers.norm(f"norm_{k}", x))
        x = _shrunk(x, 2)
        for stage, blocks in enumerate(self.layers):
            for k in range(blocks):
                x = Bottleneck(
                    self.width * 2**stage,
                    stride=2 if stage > 0 and k == 0 else 1,
                    norm=self.norm,
                    num_groups=self.num_groups,
                    dtype=self.dtype,
                    name=f"stage_{stage}_block_{k}",
                )(x, train)
        head_dim = x.shape[-1] // self.num_heads
        pooled = AttentionPool(self.embed_dim, head_dim, dtype=self.dtype, name="pool")(x)
        return ImageFeatures(x, pooled, pooled)


class Layers:
    """The convolutions and norms of a module, which it makes within its own call."""

    def __init__(self, norm: str, num_groups: int, dtype: Any, train: bool):
        self._norm, self._num_groups, self._dtype, self._train = norm, num_groups, dtype, train

    def conv(self, name: str, features: int, size: int, stride: int = 1) -> nn.Conv:
        """A square convolution without a bias, with size // 2 pixels of zeros around the image."""
        return nn.Conv(
            features,
            (size, size),
            strides=stride,
            padding=size // 2,
            use_bias=False,
            dtype=self._dtype,
            kernel_init=nn.initializers.he_normal(),
            name=name,
        )

    def norm(self, name: str, x: jax.Array, zero: bool = False) -> jax.Array:
        """The norm of x, [B, H, W, C]; with `zero` it gives zeros at first."""
        init = nn.initializers.zeros if zero else nn.initializers.ones
        if self._norm == GROUP:
            groups = min(self._num_groups, x.shape[-1])
            return GroupNorm(groups, 1e-5, self._dtype, scale_init=init, name=name)(x)
        return BatchNorm(dtype=self._dtype, scale_init=init, name=name)(x, self._train)


def _shrunk(x: jax.Array, stride: int) -> jax.Array:
    """The mean of every `stride` x `stride` whole pixels. [B, H, W, C] -> [B, H/s, W/s, C]."""
    return x if stride == 1 else nn.avg_pool(x, (stride, stride), (stride, stride))

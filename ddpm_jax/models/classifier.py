"""The classifier of noised images (Dhariwal & Nichol 2021): the way down of a U-Net, and a pool."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.attention import XLA, Attention, AttentionPool
from ddpm_jax.models.convolution import PLAIN
from ddpm_jax.models.layers import GroupNorm, initializer, sinusoidal_embedding
from ddpm_jax.models.levels import Tokens, check_sizes, conv, down_path, residual_block
from ddpm_jax.models.remat import recomputed


class Classifier(nn.Module):
    """Logits of the classes of x_t, for `guidance.classifier`.

    The defaults are the paper's classifier of ImageNet at 128x128, 43 million parameters.

    Attributes:
      block_channels, num_blocks, attention_levels, dropout, head_dim: as in `UNet`.
      num_heads, num_groups, norm_epsilon, scale_shift_norm: as in `UNet`.
      resample_blocks, residual_scale, remat: as in `UNet`.
      attention, kernel_gradient, dtype: as in `UNet`.
      num_classes: at least 2.
    """

    block_channels: tuple[int, ...] = (128, 128, 256, 384, 512)
    num_blocks: int = 2
    attention_levels: tuple[int, ...] = (2, 3, 4)
    num_classes: int = 1000
    dropout: float = 0.0
    head_dim: int | None = 64
    num_heads: int = 1
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    scale_shift_norm: bool = True
    resample_blocks: bool = True
    residual_scale: float = 1.0
    remat: str = "none"
    attention: str = XLA
    kernel_gradient: str = PLAIN
    dtype: Any = jnp.float32

    def __call__(
        self, xt: jax.Array, time: jax.Array, *, train: bool = False
    ) -> jax.Array:  # [B, H, W, C], [B] or a scalar -> [B, num_classes]
        """The logits of x_t's class.

        Args:
          xt: [B, H, W, C]; H and W divisible by 2^(levels - 1).
          time: [B] or a scalar, in the units of `Schedule.network_time`.
          train: turns dropout on; `apply` then needs rngs={"dropout": key}.

        Raises:
          ValueError: for sizes that do not divide, or fewer than 2 classes.
        """
        return self._through(xt, time, train)[1]

    def features(self, xt: jax.Array, time: jax.Array) -> list[jax.Array]:
        """What each level makes of x_t before it is halved, [B, h, w, C] each, without dropout.

        Args:
          xt, time: as of a call.

        Raises:
          ValueError: as a call.
        """
        ends = range(self.num_blocks, len(self.block_channels) * (self.num_blocks + 1) + 1)
        layers = self._through(xt, time, False)[0]
        return [layers[k] for k in ends[:: self.num_blocks + 1]]

    @nn.compact
    def _through(
        self, xt: jax.Array, time: jax.Array, train: bool
    ) -> tuple[list[jax.Array], jax.Array]:
        """What each layer on the way down makes of x_t, and the logits."""
        self._check(xt)
        width = 4 * self.block_channels[0]
        dense = functools.partial(nn.Dense, width, dtype=self.dtype, kernel_init=initializer())
        waves = sinusoidal_embedding(jnp.broadcast_to(time, xt.shape[:1]), self.block_channels[0])
        embedding = dense(name="time_dense_1")(nn.swish(dense(name="time_dense_0")(waves)))
        h = conv(self, self.block_channels[0], name="conv_in")(xt.astype(self.dtype))
        way = down_path(self, h, embedding, {}, train=train)
        h = way[-1]
        channels = self.block_channels[-1]
        block = functools.partial(residual_block, self, train, width=channels)
        h = block(name="mid_block_0")(h, embedding)
        h = self.attend(h, {}, name="mid_attention")
        h = block(name="mid_block_1")(h, embedding)
        h = nn.swish(GroupNorm(self.num_groups, self.norm_epsilon, self.dtype, name="norm_out")(h))
        logits = AttentionPool(
            self.num_classes, self._head_dim(channels), dtype=self.dtype, name="pool"
        )(h)
        return way, logits.astype(jnp.promote_types(jnp.float32, xt.dtype))

    def attend(self, h: jax.Array, tokens: Tokens, *, name: str) -> jax.Array:
        """Self-attention, [B, H, W, C] -> the same; there are no tokens to read."""
        return recomputed("block", self.remat, Attention)(
            self._head_dim(h.shape[-1]),
            self.num_groups,
            self.norm_epsilon,
            self.residual_scale,
            self.attention,
            self.dtype,
            name=name,
        )(h)

    def with_attention(self, implementation: str) -> "Classifier":
        """The same network with an implementation of `attention.attend`."""
        return self.clone(attention=implementation)

    def with_kernel_gradient(self, form: str) -> "Classifier":
        """The same network with a form of `convolution.convolution`."""
        return self.clone(kernel_gradient=form)

    def _head_dim(self, channels: int) -> int:
        return self.head_dim or channels // self.num_heads

    def _check(self, xt: jax.Array) -> None:
        if xt.ndim != 4:
            raise ValueError(f"need images [B, H, W, C], got shape {xt.shape}")
        if self.num_classes < 2:
            raise ValueError(f"need num_classes >= 2, got {self.num_classes}")
        check_sizes(self, xt.shape, {*self.attention_levels, len(self.block_channels) - 1})

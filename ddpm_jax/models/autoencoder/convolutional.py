"""The two halves of an autoencoder of images: a U-Net's ways down and up, without skips."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.attention import XLA, Attention
from ddpm_jax.models.convolution import PLAIN
from ddpm_jax.models.levels import Tokens, bottom, check_sizes, conv, down_path, output, up_level
from ddpm_jax.models.remat import recomputed


class Half(nn.Module):
    """What both halves have.

    Attributes:
      block_channels: of each level, the full resolution first.
      num_blocks: residual blocks of a level on the way down; one more on the way up.
      out_channels: of the result.
      attention_levels: levels with self-attention behind each block, besides the lowest.
      mid_attention: whether the lowest resolution has it.
      head_dim: of attention; None for a single head, as LDM has it.
      num_heads: of attention, where head_dim is None.
      num_groups, norm_epsilon: of every GroupNorm.
      dropout: rate, before the second convolution of a block.
      remat: what the backward pass computes again, a key of `remat.RECOMPUTED`.
      attention: the implementation of `attention.attend`.
      kernel_gradient: of the convolutions, as in `layers.ResidualBlock`.
      dtype: of the computation; parameters and output are float32.
    """

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    num_blocks: int = 2
    out_channels: int = 3
    attention_levels: tuple[int, ...] = ()
    mid_attention: bool = True
    head_dim: int | None = None
    num_heads: int = 1
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    dropout: float = 0.0
    remat: str = "none"
    attention: str = XLA
    kernel_gradient: str = PLAIN
    dtype: Any = jnp.float32

    # What a way down or up asks of the network that it is in, and what has one value here.
    scale_shift_norm = False
    resample_blocks = False
    residual_scale = 1.0
    mid_num_groups = None

    def attend(
        self, h: jax.Array, tokens: Tokens, *, name: str, num_groups: int | None = None
    ) -> jax.Array:
        """Self-attention, [B, H, W, C] -> the same; there are no tokens to read."""
        return recomputed("block", self.remat, Attention)(
            self.head_dim or h.shape[-1] // self.num_heads,
            self.num_groups,
            self.norm_epsilon,
            1.0,
            self.attention,
            self.dtype,
            name=name,
        )(h)


class Encoder(Half):
    """Images to what is known of their latents, 2^(levels - 1) times smaller.

    Source: Esser et al. 2021 (VQGAN), table 7; Rombach et al. 2022 (LDM), appendix G.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False
    ) -> jax.Array:  # [B, H, W, C] -> [B, h, w, out_channels]
        """What is known of the latents of images.

        Args:
          x: [B, H, W, C]; H and W divisible by 2^(levels - 1).
          train: turns dropout on; `apply` then needs rngs={"dropout": key}.

        Raises:
          ValueError: for sizes that do not divide.
        """
        check_sizes(self, x.shape, {*self.attention_levels, len(self.block_channels) - 1})
        h = conv(self, self.block_channels[0], name="conv_in")(x.astype(self.dtype))
        h = down_path(self, h, None, {}, train=train)[-1]
        h = bottom(self, h, None, {}, train=train)
        return output(self, h, scale=1.0).astype(jnp.promote_types(jnp.float32, x.dtype))


class Decoder(Half):
    """Latents to images, 2^(levels - 1) times larger. Source: as of `Encoder`.

    Attributes:
      num_classes: of a label that it is told; 0 for none.
    """

    num_classes: int = 0

    @nn.compact
    def __call__(
        self, z: jax.Array, label: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:  # [B, h, w, C], int [B] or None -> [B, H, W, out_channels]
        """Images of latents.

        Args:
          z: [B, h, w, C].
          label: the class of each, where there are classes.
          train: as in `Encoder`.

        Raises:
          ValueError: for a label without classes, or classes without a label.
        """
        if (label is None) != (self.num_classes == 0):
            raise ValueError(
                f"a decoder of {self.num_classes} classes: need "
                + ("a label of each image" if self.num_classes else "no label")
            )
        h = conv(self, self.block_channels[-1], name="conv_in")(z.astype(self.dtype))
        if label is not None:
            table = nn.Embed(
                self.num_classes, h.shape[-1], dtype=self.dtype, name="label_embedding"
            )
            h = h + table(label)[:, None, None]
        h = bottom(self, h, None, {}, train=train)
        for level in reversed(range(len(self.block_channels))):
            up = functools.partial(_up_level, level=level, train=train)
            h = recomputed("stage", self.remat, up)(self, h)
        return output(self, h, scale=1.0).astype(jnp.promote_types(jnp.float32, z.dtype))


def _up_level(module: Decoder, h: jax.Array, *, level: int, train: bool) -> jax.Array:
    """A level on the way up without skips."""
    skips = (None,) * (module.num_blocks + 1)
    return up_level(module, h, skips, None, {}, level=level, train=train)

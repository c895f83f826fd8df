"""A transformer between an image's pixels, which also read a text's tokens (latent diffusion)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.attention import XLA, attend
from ddpm_jax.models.computed_once import computed_once
from ddpm_jax.models.encoder import layer_norm
from ddpm_jax.models.layers import GroupNorm, initializer
from ddpm_jax.models.remat import recomputed

# Whatever the U-Net around them has: those of the published networks.
GROUP_NORM_EPSILON = 1e-6
LAYER_NORM_EPSILON = 1e-5
HIDDEN = 4  # the width of an MLP's hidden layer over the block's own


class TokenAttention(nn.Module):
    """Attention of pixels to each other, or to a sequence of tokens; nothing is added to them.

    Attributes:
      num_heads: dividing the width.
      attention: the implementation of `attention.attend`.
      dtype: of the computation; the softmax runs in float32.

    Source: Vaswani et al. 2017, section 3.2.2.
    """

    num_heads: int
    attention: str = XLA
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, tokens: jax.Array | None = None, mask: jax.Array | None = None
    ) -> jax.Array:  # [B, N, width], [B, L, D] or None, bool [B, L] or None -> [B, N, width]
        """What x reads of the tokens, of itself where there are none."""
        width = x.shape[-1]
        read = x if tokens is None else tokens

        def heads(name: str, y: jax.Array) -> jax.Array:
            dense = nn.Dense(
                width, use_bias=False, dtype=self.dtype, kernel_init=initializer(), name=name
            )
            return dense(y).reshape(*y.shape[:2], self.num_heads, width // self.num_heads)

        query, key, value = heads("query", x), heads("key", read), heads("value", read)
        y = attend(query, key, value, self.attention, mask=mask).reshape(x.shape)
        return nn.Dense(width, dtype=self.dtype, kernel_init=initializer(), name="out")(y)


class TransformerBlock(nn.Module):
    """Attention of the pixels to each other, to the tokens, and a gated MLP, each added to them.

    Attributes:
      num_heads, attention, dtype: as of `TokenAttention`.
      only_tokens: both attentions read the tokens. The first one then reads those outside of the
        mask too, as it does in diffusers.

    Source: Rombach et al. 2022, appendix E.2.1; the MLP's gate, Shazeer 2020, "GLU variants".
    """

    num_heads: int
    only_tokens: bool = False
    attention: str = XLA
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, tokens: jax.Array | None, mask: jax.Array | None = None
    ) -> jax.Array:  # [B, N, width], [B, L, D], bool [B, L] or None -> [B, N, width]
        """The pixels' next state; a mask has a token in every row."""
        x = computed_once(x)
        width = x.shape[-1]

        def norm(name: str) -> nn.LayerNorm:
            return layer_norm(name, LAYER_NORM_EPSILON, self.dtype)

        def reads(name: str) -> TokenAttention:
            return TokenAttention(self.num_heads, self.attention, self.dtype, name=name)

        def dense(name: str, features: int) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, kernel_init=initializer(), name=name)

        first = tokens if self.only_tokens else None
        x = x + reads("attention_0")(norm("norm_0")(x), first)
        x = x + reads("attention_1")(norm("norm_1")(x), tokens, mask)
        hidden = dense("mlp_0", 2 * HIDDEN * width)(norm("norm_2")(x))
        values, gate = jnp.split(hidden, 2, axis=-1)
        return x + dense("mlp_1", width)(values * nn.gelu(gate, approximate=False))


class SpatialTransformer(nn.Module):
    """Transformer blocks behind a norm and a projection, added to the pixels.

    The blocks are as wide as the heads have channels together: all of the pixels' channels where
    the heads divide them.

    Attributes:
      num_heads: of each block.
      depth: number of blocks.
      only_tokens: as of `TransformerBlock`.
      num_groups: of the GroupNorm.
      remat: a key of `remat.RECOMPUTED`.
      attention: the implementation of `attention.attend`.
      dtype: of the computation.

    Source: Rombach et al. 2022, appendix E.2.1.
    """

    num_heads: int
    depth: int = 1
    only_tokens: bool = False
    num_groups: int = 32
    remat: str = "none"
    attention: str = XLA
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, tokens: jax.Array | None = None, mask: jax.Array | None = None
    ) -> jax.Array:  # [B, H, W, C], [B, L, D], bool [B, L] or None -> [B, H, W, C]
        """The pixels with what they read of each other and of the tokens, if it has any block."""
        b, h, w, c = x.shape
        width = self.num_heads * (c // self.num_heads)
        y = GroupNorm(
            self.num_groups,
            GROUP_NORM_EPSILON,
            self.dtype,
            use_fast_variance=False,
            name="norm",
        )(x)
        y = y.reshape(b, h * w, c)
        y = nn.Dense(width, dtype=self.dtype, kernel_init=initializer(), name="proj_in")(y)
        for k in range(self.depth):
            y = recomputed("block", self.remat, TransformerBlock)(
                self.num_heads, self.only_tokens, self.attention, self.dtype, name=f"block_{k}"
            )(y, tokens, mask)
        y = nn.Dense(c, dtype=self.dtype, kernel_init=initializer(0.0), name="proj_out")(y)
        return x + y.reshape(b, h, w, c)

"""Attention: of pixels to each other and to a text, to a sequence of tokens, of a mean to all."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.layers import GroupNorm, initializer

# The implementations of `attend`.
XLA, CUDNN = "xla", "cudnn"


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    implementation: str = XLA,
    *,
    causal: bool = False,
    mask: jax.Array | None = None,
) -> jax.Array:
    """softmax(query key^T / sqrt(D)) value, head by head, the softmax in float32.

    cuDNN's fused attention never writes the weights [B, heads, T, T] to memory. It has no
    forward-mode derivative, and works on half precision alone, without a mask and on some shapes;
    others are computed as by "xla", which has every derivative.

    Args:
      query, key, value: [B, T, heads, D]; keys and values may have another T than queries.
      implementation: "xla", or "cudnn" where it applies.
      causal: whether a query sees the keys up to its own place alone.
      mask: bool [B, T], the keys that are there; None for all.

    Returns:
      [B, T, heads, D].

    Raises:
      ValueError: for an unknown implementation.

    Source: Vaswani et al. 2017, equation 1; Dao 2023, "FlashAttention-2".
    """
    if implementation not in (XLA, CUDNN):
        raise ValueError(f"need an attention of {XLA} or {CUDNN}, got {implementation!r}")
    taken = cudnn_takes(query) and cudnn_takes(key)
    if implementation == CUDNN and (mask is not None or not taken):
        implementation = XLA
    chosen: Any = implementation
    seen = None if mask is None else mask[:, None, None, :]
    return jax.nn.dot_product_attention(
        query, key, value, mask=seen, is_causal=causal, implementation=chosen
    )


def cudnn_takes(query: jax.Array) -> bool:
    """Whether cuDNN's attention takes queries, keys and values like these, [B, T, heads, D].

    The conditions of all GPUs that have it (compute capability 8.0 on): half precision, heads of a
    multiple of 8 channels and of at most 128, and whole tiles of 64 tokens.
    """
    _, tokens, _, channels = query.shape
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    return half and channels % 8 == 0 and channels <= 128 and tokens % 64 == 0


class Attention(nn.Module):
    """Attention of the pixels to themselves and, if there is one, to a text; added to them.

    Keys and values of a text's tokens stand in one row with those of the pixels, so that one
    softmax shares a pixel's attention between picture and text.

    Attributes:
      head_dim: channels of a head, dividing the channels; None for a single head.
      num_groups, norm_epsilon: of the GroupNorm before it; 0 groups for no norm at all.
      residual_scale: of the sum.
      attention: the implementation of `attend`.
      dtype: of the computation; the softmax runs in float32.

    Source: Ho et al. 2020, appendix B; with a text, Nichol et al. 2021 (GLIDE), section 2.2.
    """

    head_dim: int | None = None
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    residual_scale: float = 1.0
    attention: str = XLA
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, text: jax.Array | None = None
    ) -> jax.Array:  # [B, H, W, C], [B, L, D] or None -> [B, H, W, C]
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
        if text is not None:
            key, value = (
                jnp.concatenate([dense(name)(text).reshape(b, -1, *own.shape[2:]), own], axis=1)
                for name, own in (("text_key", key), ("text_value", value))
            )
        y = attend(query, key, value, self.attention).reshape(b, h, w, c)
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

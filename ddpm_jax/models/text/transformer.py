"""The transformer that reads a sequence of tokens, as CLIP and Stable Diffusion have it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.attention import XLA
from ddpm_jax.models.encoder import Encoder, layer_norm, projection


class TextFeatures(NamedTuple):
    """What a transformer makes of tokens.

    Attributes:
      hidden_states: depth + 1 arrays [B, L, width]: what enters the first block, then what each
        block gives. None of them went through the last norm.
      last: the last of them behind the last norm, [B, L, width].
      pooled: the one token of `last` that stands for the text, or their mean, [B, width].
      embedding: its projection, [B, embed_dim]; `pooled` itself without one.
    """

    hidden_states: tuple[jax.Array, ...]
    last: jax.Array
    pooled: jax.Array
    embedding: jax.Array


def _first_of(tokens: jax.Array, mask: jax.Array, eos: int) -> jax.Array:
    return jnp.argmax(tokens == eos, axis=-1)


# Which token stands for a text, by name: (tokens [B, L], mask [B, L], eos) -> its place [B].
#   largest: that of the largest number, which the end of text is in CLIP's own vocabulary.
#   eos: the first end of text; place 0 where there is none.
#   first: the first, BERT's [CLS].
#   last: the last of the mask.
POOLINGS: dict[str, Callable[[jax.Array, jax.Array, int], jax.Array]] = {
    "largest": lambda tokens, mask, eos: jnp.argmax(tokens, axis=-1),
    "eos": _first_of,
    "first": lambda tokens, mask, eos: jnp.zeros(len(tokens), jnp.int32),
    "last": lambda tokens, mask, eos: mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=-1),
}
MEAN = "mean"


class TextTransformer(nn.Module):
    """Tokens to features: CLIP's causal transformer; with `causal=False`, one in BERT's manner.

    Attributes:
      vocab_size: tokens are in [0, vocab_size); others give NaN.
      context_length: the most tokens of a text.
      width, depth, num_heads: of the encoder.
      mlp_width: of its hidden layers; None for 4 width.
      activation: a key of `encoder.ACTIVATIONS`.
      causal: whether a token sees itself and those before it alone.
      pooling: a key of POOLINGS, or "mean", of the tokens in the mask.
      eos: the end of text, for the pooling of that name.
      embed_dim: of the projection, which has no bias; None for no projection.
      norm_epsilon: of every LayerNorm.
      attention, remat: as in `Encoder`.
      dtype: of the computation; norms and softmax run in float32.

    Raises:
      ValueError: for more tokens than context_length, or an unknown pooling.

    Source: Radford et al. 2021 (CLIP), section 2.4; Devlin et al. 2018 (BERT).
    """

    vocab_size: int = 49408
    context_length: int = 77
    width: int = 512
    depth: int = 12
    num_heads: int = 8
    mlp_width: int | None = None
    activation: str = "quick_gelu"
    causal: bool = True
    pooling: str = "largest"
    eos: int = 49407
    embed_dim: int | None = None
    norm_epsilon: float = 1e-5
    attention: str = XLA
    remat: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: jax.Array, mask: jax.Array | None = None
    ) -> TextFeatures:  # int [B, L], bool [B, L] or None
        """The features of `tokens`; those outside of `mask` are seen by none. None hides none."""
        length = tokens.shape[1]
        if length > self.context_length:
            raise ValueError(f"{length} tokens, and the context has {self.context_length}")
        if self.pooling not in (*POOLINGS, MEAN):
            raise ValueError(
                f"need a pooling of {', '.join([*POOLINGS, MEAN])}, got {self.pooling!r}"
            )
        normal = nn.initializers.normal
        embed = nn.Embed(
            self.vocab_size,
            self.width,
            dtype=self.dtype,
            embedding_init=normal(0.02),
            name="token_embedding",
        )
        places = self.param("places", normal(0.01), (self.context_length, self.width))
        x = embed(tokens) + places[None, :length].astype(self.dtype)
        states = Encoder(
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width or 4 * self.width,
            activation=self.activation,
            causal=self.causal,
            norm_epsilon=self.norm_epsilon,
            attention=self.attention,
            remat=self.remat,
            dtype=self.dtype,
            name="encoder",
        )(x, mask)
        last = layer_norm("norm_out", self.norm_epsilon, self.dtype)(states[-1])
        shown = jnp.ones(tokens.shape, bool) if mask is None else mask
        if self.pooling == MEAN:
            pooled = mean_of(last, shown)
        else:
            place = POOLINGS[self.pooling](tokens, shown, self.eos)
            pooled = jnp.take_along_axis(last, place[:, None, None], axis=1)[:, 0]
        embedding = pooled
        if self.embed_dim is not None:
            embedding = projection(self.embed_dim, self.width, self.dtype)(pooled)
        return TextFeatures(states, last, pooled, embedding)


def last_norm(text: TextTransformer, params: Mapping[str, Any], states: jax.Array) -> jax.Array:
    """What the norm behind the last block makes of the states of any block, [B, L, width]."""
    norm = layer_norm(None, text.norm_epsilon, text.dtype)
    normed: Any = norm.apply({"params": params["norm_out"]}, states)
    return normed


def mean_of(x: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of the tokens of a mask; 0 where it is empty. [B, L, D], bool [B, L] -> [B, D]."""
    weight = mask.astype(x.dtype)[..., None]
    return (x * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)

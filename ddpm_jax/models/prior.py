"""Priors of unCLIP: the embedding of an image, given a text."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.attention import XLA
from ddpm_jax.models.encoder import Encoder, layer_norm
from ddpm_jax.models.language import LanguageModel
from ddpm_jax.models.layers import sinusoidal_embedding

# What it is told of a text: the embedding, zeros for none; the text tower's states, and which are
# of the text.
TEXT_EMBEDDING, TOKENS, TOKENS_MASK = "text_embedding", "tokens", "tokens_mask"
OTHERS = 4  # text embedding, time, noised embedding, query


class PriorTransformer(nn.Module):
    """What an embedding was before it was noised, by a transformer over what is known.

    The sequence is: the states of the text's tokens, the text's embedding, the time, the noised
    embedding, and a query that is learned, where the answer is read. With a mask it is causal; as
    in diffusers, without one every token sees all others.

    Attributes:
      embed_dim: D, of what is noised and answered.
      context: L, the tokens of a text; 0 for a network that reads its embedding alone.
      width, depth, num_heads: of the encoder.
      time_width: of the time embedding's hidden layer; None for the width.
      norm_in: whether a LayerNorm stands before the encoder.
      norm_embedding: whether one stands before the text embedding's projection.
      dropout: of what the encoder's blocks add, in training.
      remat, attention: as in `Encoder`.
      dtype: of the computation; norms and softmax run in float32, and so is the output.

    Source: Ramesh et al. 2022 (unCLIP), section 2.2, as diffusers' PriorTransformer has it.
    """

    embed_dim: int
    context: int = 77
    width: int = 2048
    depth: int = 20
    num_heads: int = 32
    time_width: int | None = None
    norm_in: bool = False
    norm_embedding: bool = False
    dropout: float = 0.0
    remat: str = "none"
    attention: str = XLA
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        xt: jax.Array,
        time: jax.Array,
        conditions: Mapping[str, jax.Array],
        *,
        train: bool = False,
    ) -> jax.Array:  # [B, D], [B] or a scalar -> [B, D]
        """The answer at a noised embedding.

        Args:
          xt: [B, D].
          time: [B] or a scalar, in the units of `Schedule.network_time`.
          conditions: "text_embedding" [B, E] and, for a network that reads tokens, "tokens"
            [B, L, W] and perhaps "tokens_mask" bool [B, L].
          train: turns dropout on; `apply` then needs rngs={"dropout": key}.

        Raises:
          ValueError: for conditions of other shapes.
        """
        num = len(xt)
        self._check(xt, conditions)

        def dense(name: str, x: jax.Array, features: int = self.width) -> jax.Array:
            init = nn.initializers.normal(x.shape[-1] ** -0.5)
            return nn.Dense(features, dtype=self.dtype, kernel_init=init, name=name)(x)

        waves = sinusoidal_embedding(
            jnp.broadcast_to(time, (num,)), self.width, freq_shift=0, flip_sin_to_cos=True
        )
        hidden = nn.swish(dense("time_dense_0", waves, self.time_width or self.width))
        text = conditions[TEXT_EMBEDDING]
        if self.norm_embedding:
            text = layer_norm("norm_embedding", 1e-5, self.dtype)(text)
        normal = nn.initializers.normal(0.02)
        query = self.param("query", normal, (1, self.width)).astype(self.dtype)
        sequence = [
            dense("text_projection", text)[:, None],
            dense("time_dense_1", hidden)[:, None],
            dense("proj_in", xt)[:, None],
            jnp.broadcast_to(query[None], (num, 1, self.width)),
        ]
        if self.context:
            sequence = [dense("tokens_projection", conditions[TOKENS]), *sequence]
        places = self.param("places", normal, (self.context + OTHERS, self.width))
        x = jnp.concatenate(sequence, axis=1) + places[None].astype(self.dtype)
        if self.norm_in:
            x = layer_norm("norm_in", 1e-5, self.dtype)(x)
        mask = conditions.get(TOKENS_MASK)
        if mask is not None:
            mask = jnp.concatenate([mask, jnp.ones((num, OTHERS), bool)], axis=1)
        states = Encoder(
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_width=4 * self.width,
            causal=mask is not None,
            dropout=self.dropout if train else 0.0,
            attention=self.attention,
            remat=self.remat,
            dtype=self.dtype,
            name="encoder",
        )(x, mask)
        answer = layer_norm("norm_out", 1e-5, self.dtype)(states[-1][:, -1])
        out = dense("out", answer, self.embed_dim)
        return out.astype(jnp.promote_types(jnp.float32, xt.dtype))

    def with_attention(self, implementation: str) -> "PriorTransformer":
        """The same network with an implementation of `attention.attend`."""
        return self.clone(attention=implementation)

    def _check(self, xt: jax.Array, conditions: Mapping[str, jax.Array]) -> None:
        if xt.ndim != 2 or xt.shape[1] != self.embed_dim:
            raise ValueError(f"need embeddings [B, {self.embed_dim}], got {list(xt.shape)}")
        if TEXT_EMBEDDING not in conditions or conditions[TEXT_EMBEDDING].ndim != 2:
            raise ValueError(f"need conditions with {TEXT_EMBEDDING} [B, E]")
        tokens = conditions.get(TOKENS)
        if (tokens is None) != (self.context == 0):
            have = "none" if tokens is None else list(tokens.shape)
            raise ValueError(f"need tokens of context={self.context}, got {have}")
        if tokens is not None and tokens.shape[1] != self.context:
            raise ValueError(f"need tokens [B, {self.context}, W], got {list(tokens.shape)}")


class ComponentModel(LanguageModel):
    """A causal transformer over the components of an embedding, given a text's embedding.

    The text is added to what stands before the first token, as a label is; zeros are no text.

    Attributes:
      text_dim: E, of the text's embedding; others as in `LanguageModel`.

    Source: Ramesh et al. 2022 (unCLIP), section 2.2, the autoregressive prior, without the tokens
      of the text and of the dot product.
    """

    text_dim: int = 512

    def setup(self) -> None:
        """What reads the text, beside the model itself."""
        super().setup()
        init = nn.initializers.normal(0.5 * self.text_dim**-0.5)
        self.text_projection = nn.Dense(self.width, dtype=self.dtype, kernel_init=init)

    def _start(self, num: int, conditions: Mapping[str, jax.Array] | None) -> jax.Array:
        start = super()._start(num, None)
        none = jnp.zeros((num, self.text_dim), self.dtype)
        return start + self.text_projection((conditions or {}).get(TEXT_EMBEDDING, none))

"""A causal transformer over tokens: p(x_i | what comes before it), for every place at once.

It may read a sequence of features besides, such as an image's: p(x_i | what comes before, image).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models import condition_embedding
from ddpm_jax.models.attention import XLA
from ddpm_jax.models.encoder import Encoder, Memory, Read, layer_norm

LABEL = "label"
# What is carried from token to token: the start, keys and values of the tokens, of what is read.
Carry = tuple[jax.Array, tuple[Memory, ...], tuple[Read | None, ...]]


class LanguageModel(nn.Module):
    """Tokens to the logits of each, given the tokens before it and perhaps a label.

    Before the first token stands one that is learned; the label, where there is one, is added to
    it. What enters place i is the token before, so the logits there know nothing of x_i or of what
    follows it.

    Attributes:
      vocab_size: tokens are in [0, vocab_size); others give NaN.
      length: the most tokens of a sequence.
      width, depth, num_heads: of the encoder.
      mlp_width: of its hidden layers; None for 4 width.
      activation: a key of `encoder.ACTIVATIONS`.
      num_classes: of the label; 0 for none.
      dropout: of what enters the encoder and of what its blocks add, in training.
      norm_epsilon: of every LayerNorm.
      reads: whether every block attends to features that are given besides (cross-attention).
      attention, remat: as in `Encoder`.
      dtype: of the computation; norms, softmax and logits in float32.

    Raises:
      ValueError: for more tokens than `length`, labels where there are none, or features where none
        are read, or none where some are.

    Source: Radford et al. 2019 (GPT-2), section 2.3, without tying the output to the embedding; of
      pixels, Chen et al. 2020, "Generative pretraining from pixels"; with features to read, Vaswani
      et al. 2017, section 3.2.3.
    """

    vocab_size: int
    length: int
    width: int = 128
    depth: int = 4
    num_heads: int = 4
    mlp_width: int | None = None
    activation: str = "gelu_tanh"
    num_classes: int = 0
    dropout: float = 0.0
    norm_epsilon: float = 1e-5
    attention: str = XLA
    remat: str = "none"
    dtype: Any = jnp.float32
    reads: bool = False

    def setup(self) -> None:
        """What reads tokens, what makes states of them, and what makes logits of these."""
        normal = nn.initializers.normal
        table = {"dtype": self.dtype, "embedding_init": normal(0.02)}
        self.token_embedding = nn.Embed(self.vocab_size, self.width, **table)
        self.first = self.param("first", normal(0.02), (self.width,))
        self.places = self.param("places", normal(0.02), (self.length, self.width))
        if self.num_classes:
            self.label_embedding = nn.Embed(self.num_classes + 1, self.width, **table)
        self.drop = nn.Dropout(self.dropout)
        self.encoder = Encoder(
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width or 4 * self.width,
            activation=self.activation,
            causal=True,
            norm_epsilon=self.norm_epsilon,
            dropout=self.dropout,
            attention=self.attention,
            remat=self.remat,
            dtype=self.dtype,
            reads=self.width if self.reads else 0,
        )
        self.norm_out = layer_norm("norm_out", self.norm_epsilon, self.dtype)
        init = normal(self.width**-0.5 / 4)
        self.head = nn.Dense(self.vocab_size, use_bias=False, dtype=self.dtype, kernel_init=init)

    def __call__(
        self,
        tokens: jax.Array,
        conditions: Mapping[str, jax.Array] | None = None,
        features: jax.Array | None = None,
    ) -> jax.Array:  # int [B, L] -> float32 [B, L, vocab_size]
        """The logits of every token of sequences [B, L], those of place i of x_<i alone.

        Args:
          tokens: int [B, L].
          conditions: {"label": int [B]}, -1 for none; None for no labels.
          features: [B, M, any width], what is read; nothing says in which order it stands.
        """
        num, length = tokens.shape
        if length > self.length:
            raise ValueError(f"{length} tokens, and the model has {self.length} places")
        start = self._start(num, conditions)
        before = self.token_embedding(tokens[:, :-1])
        x = jnp.concatenate([start[:, None], before], axis=1)
        x = self._dropped(x + self.places[None, :length].astype(self.dtype))
        return self._logits(self.encoder(x, None, features)[-1])

    def begin(
        self,
        num: int,
        conditions: Mapping[str, jax.Array] | None = None,
        features: jax.Array | None = None,
    ) -> Carry:
        """What `step` carries before the first token of `num` sequences."""
        memories = self.encoder.memories(num, self.length, self.width)
        return self._start(num, conditions), memories, self.encoder.read(features)

    def step(self, carry: Carry, place: jax.Array, before: jax.Array) -> tuple[jax.Array, Carry]:
        """The logits [B, V] of the token at a place, and what is carried to the next.

        It is `__call__` at that place, for the cost of one token: keys and values of those before,
        and of what is read, are kept.

        Args:
          carry: from `begin`, or from the step before.
          place: int32, 0 first.
          before: int32 [B], the token before it; of no effect at place 0.
        """
        start, memories, reads = carry
        x = jnp.where(place == 0, start, self.token_embedding(before))
        x = x + jnp.take(self.places, place, axis=0)[None].astype(self.dtype)
        x, memories = self.encoder.step(x[:, None], memories, reads)
        return self._logits(x)[:, 0], (start, memories, reads)

    def _start(self, num: int, conditions: Mapping[str, jax.Array] | None) -> jax.Array:
        values = {LABEL: self.num_classes} if self.num_classes else {}
        known = condition_embedding.complete(conditions, (num,), values, (), 0)
        start = jnp.broadcast_to(self.first.astype(self.dtype), (num, self.width))
        for name, count in values.items():
            start = start + self.label_embedding(condition_embedding.row(known[name], count))
        return start

    def _dropped(self, x: jax.Array) -> jax.Array:
        return self.drop(x, deterministic=not self.has_rng("dropout"))

    def _logits(self, x: jax.Array) -> jax.Array:
        return self.head(self.norm_out(x)).astype(jnp.promote_types(self.dtype, jnp.float32))

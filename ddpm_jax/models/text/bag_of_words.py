"""The mean of a text's words, in no order: CLIP's cheapest text tower."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.encoder import projection
from ddpm_jax.models.text.transformer import mean_of


class BagFeatures(NamedTuple):
    """What a bag of words makes of tokens.

    Attributes:
      pooled: the mean of the words' vectors, [B, width].
      embedding: its projection, [B, embed_dim].
      last: the words' vectors, [B, L, width].
    """

    pooled: jax.Array
    embedding: jax.Array
    last: jax.Array


class BagOfWords(nn.Module):
    """The mean of the vectors of a text's tokens, and a linear map of it.

    The mean of a context's words is what a continuous bag of words (CBOW) predicts a word from;
    here a picture takes the word's place.

    Attributes:
      vocab_size: tokens are in [0, vocab_size); others give NaN.
      width: of a word's vector.
      embed_dim: of the embedding.
      pad: the token that is no word.
      dtype: of the computation.

    Source: Mikolov et al. 2013, section 3.1; as a tower of CLIP, Radford et al. 2021, section 2.3.
    """

    vocab_size: int
    width: int = 512
    embed_dim: int = 512
    pad: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: jax.Array, mask: jax.Array | None = None
    ) -> BagFeatures:  # int [B, L], bool [B, L] or None
        """The features of the tokens in `mask`; None for all but `pad`."""
        words = nn.Embed(
            self.vocab_size,
            self.width,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(self.width**-0.5),
            name="token_embedding",
        )(tokens)
        pooled = mean_of(words, tokens != self.pad if mask is None else mask)
        embedding = projection(self.embed_dim, self.width, self.dtype)(pooled)
        return BagFeatures(pooled, embedding, words)

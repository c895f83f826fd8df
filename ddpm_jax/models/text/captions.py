"""The transformer that reads a network's captions, trained with it, as GLIDE has it."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.attention import XLA
from ddpm_jax.models.encoder import Encoder, layer_norm


class Captions(NamedTuple):
    """The captions that a network reads, and the size of the transformer that reads them.

    Attributes:
      vocab_size: tokens are in [0, vocab_size); others but -1 give NaN.
      context_length: L, the tokens of a row: beginning, tokens, end, padding.
      width, depth, num_heads: of the transformer.
    """

    vocab_size: int
    context_length: int
    width: int = 512
    depth: int = 16
    num_heads: int = 8


class CaptionFeatures(NamedTuple):
    """What a network learns of captions.

    Attributes:
      tokens: of each place of a row, [B, L, width].
      pooled: that of the last place, [B, width].
    """

    tokens: jax.Array
    pooled: jax.Array


class CaptionEncoder(nn.Module):
    """Rows of tokens to features: a transformer in which every token sees all others.

    A place that holds no token of the text, but its beginning, its end or what comes after, holds
    an embedding that is learned for that place. So a row without any text, that of the empty text
    or of -1 alone, is the null condition, and which number pads a row has no part in anything. The
    end is the largest number of a row, as all of `data.tokenizers` have it.

    Attributes:
      captions: what is read, and the transformer's size.
      attention, remat, dtype: as in `Encoder`.

    Source: Nichol et al. 2021 (GLIDE), section 2.2, and their code's `padding_embedding`.
    """

    captions: Captions
    attention: str = XLA
    remat: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> CaptionFeatures:  # int [B, L]
        size, normal = self.captions, nn.initializers.normal
        shape = (size.context_length, size.width)
        embed = nn.Embed(
            size.vocab_size,
            size.width,
            dtype=self.dtype,
            embedding_init=normal(0.02),
            name="token_embedding",
        )
        places = self.param("places", normal(0.01), shape)[None].astype(self.dtype)
        padding = self.param("padding", normal(0.02), shape)[None].astype(self.dtype)
        of_text = is_text(tokens)
        words = embed(jnp.where(of_text, tokens, 0)) + places
        states = Encoder(
            depth=size.depth,
            num_heads=size.num_heads,
            mlp_width=4 * size.width,
            attention=self.attention,
            remat=self.remat,
            dtype=self.dtype,
            name="encoder",
        )(jnp.where(of_text[..., None], words, padding))
        last = layer_norm("norm_out", 1e-5, self.dtype)(states[-1])
        return CaptionFeatures(last, last[:, -1])


def read(module: Any, rows: jax.Array | None) -> CaptionFeatures | None:
    """The captions of a network, read inside of its call; None for a network that reads none.

    Args:
      module: a network with the fields captions, attention, remat and dtype.
      rows: int [B, L].
    """
    if module.captions is None or rows is None:
        return None
    return CaptionEncoder(
        module.captions,
        attention=module.attention,
        remat=module.remat,
        dtype=module.dtype,
        name="text",
    )(rows)


def is_text(tokens: jax.Array) -> jax.Array:
    """Which places of rows hold a token of the text itself, bool [B, L]."""
    end, places = jnp.argmax(tokens, axis=-1, keepdims=True), jnp.arange(tokens.shape[-1])[None]
    return (places > 0) & (places < end)

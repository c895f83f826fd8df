"""The transformer that reads a network's captions, as GLIDE has it, or CLIP's."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.attention import XLA
from ddpm_jax.models.encoder import Encoder, layer_norm
from ddpm_jax.models.text.transformer import TextTransformer

# What the tower's parameters are called in a network's.
TOWER = "text"


class Captions(NamedTuple):
    """The captions that a network reads, and the size of the transformer that reads them.

    Attributes:
      vocab_size: tokens are in [0, vocab_size); others but -1 give NaN.
      context_length: L, the tokens of a row: beginning, tokens, end, padding.
      width, depth, num_heads: of the transformer.
      tower: a key of TOWERS.
    """

    vocab_size: int
    context_length: int
    width: int = 512
    depth: int = 16
    num_heads: int = 8
    tower: str = "glide"


class CaptionFeatures(NamedTuple):
    """What a network learns of captions.

    Attributes:
      tokens: of each place of a row, [B, L, width].
      pooled: that of the place which stands for the text, [B, width].
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


def read(
    module: Any, rows: jax.Array | None, states: jax.Array | None = None
) -> CaptionFeatures | None:
    """The captions of a network, read inside of its call; None for a network that reads none.

    Args:
      module: a network with the fields captions, attention, remat and dtype.
      rows: int [B, L].
      states: [B, L, width], what `tower_of` makes of the rows, which is then not made here.

    Raises:
      ValueError: for an unknown tower, or states of one that has none.
    """
    if module.captions is None or rows is None:
        return None
    tower = module.captions.tower
    if tower not in TOWERS:
        raise ValueError(f"need a tower of {', '.join(TOWERS)}, got {tower!r}")
    return TOWERS[tower].read(module, rows, states)


def has_tower(module: Any) -> bool:
    """Whether a network reads captions by what stands alone, as `tower_of` gives it."""
    try:
        read = module.captions
    except AttributeError:  # a network of another sort
        return False
    return read is not None and TOWERS[read.tower].module is not None


def tower_of(module: Any, **fields: Any) -> Any:
    """What reads a network's captions, a network of its own: rows int [B, L] -> `.last` and more.

    Raises:
      ValueError: for a network whose tower is no such.
    """
    make = module.captions and TOWERS[module.captions.tower].module
    if make is None:
        raise ValueError("this network's captions are read by nothing that stands alone")
    return make(module, **fields)


class Reader(NamedTuple):
    """What reads a network's captions, as it stands alone.

    Attributes:
      parts: the names of its parameters among the network's.
      states: ({part: its parameters}, rows int [B, L]) -> the condition "text_states", [B, ...].
      network: what computes them, whose `repr` says which function it is.
    """

    parts: tuple[str, ...]
    states: Callable[[Any, jax.Array], jax.Array]
    network: Any


def reader_of(module: Any) -> Reader | None:
    """What reads a network's captions alone: the network's own `reader`, or its tower; or None."""
    if own := getattr(module, "reader", None):
        return own
    if not has_tower(module):
        return None
    tower = tower_of(module)
    return Reader((TOWER,), lambda own, rows: tower.apply({"params": own[TOWER]}, rows).last, tower)


def _of_glide(module: Any, rows: jax.Array, states: jax.Array | None) -> CaptionFeatures:
    if states is not None:
        raise ValueError("glide's tower has no states that are made outside of the network")
    return CaptionEncoder(
        module.captions,
        attention=module.attention,
        remat=module.remat,
        dtype=module.dtype,
        name=TOWER,
    )(rows)


def _clip_tower(module: Any, **fields: Any) -> TextTransformer:
    size = module.captions
    return TextTransformer(
        vocab_size=size.vocab_size,
        context_length=size.context_length,
        width=size.width,
        depth=size.depth,
        num_heads=size.num_heads,
        attention=module.attention,
        remat=module.remat,
        dtype=module.dtype,
        **fields,
    )


def _of_clip(module: Any, rows: jax.Array, states: jax.Array | None) -> CaptionFeatures:
    """CLIP's transformer, whose parameters have the names that they have in a CLIP.

    What it makes of a row up to its end is read; behind that, and of a row without text, are
    embeddings that the network learns. The end's stands for the text, as in CLIP.
    """
    size = module.captions
    if states is None:
        states = _clip_tower(module, name=TOWER)(jnp.maximum(rows, 0)).last
    states = states.astype(module.dtype)
    shape = (size.context_length, size.width)
    padding = module.param("text_padding", nn.initializers.normal(1.0), shape)
    told = is_text(rows).any(axis=-1, keepdims=True)
    end = jnp.where(told, jnp.argmax(rows, axis=-1, keepdims=True), 0)
    read = told & (jnp.arange(rows.shape[-1])[None] <= end)
    tokens = jnp.where(read[..., None], states, padding[None].astype(states.dtype))
    return CaptionFeatures(tokens, jnp.take_along_axis(tokens, end[..., None], axis=1)[:, 0])


class Tower(NamedTuple):
    """What reads captions.

    Attributes:
      read: (the network, rows [B, L], states or None) -> their features.
      module: (the network, fields) -> what of it stands alone, a network of its own; None for none.
    """

    read: Callable[[Any, jax.Array, jax.Array | None], CaptionFeatures]
    module: Callable[..., TextTransformer] | None = None


# By name:
#   glide: GLIDE's, which knows padding; trained with the network.
#   clip: that of a CLIP, whose weights it can begin with and keep.
TOWERS: dict[str, Tower] = {
    "glide": Tower(_of_glide),
    "clip": Tower(_of_clip, _clip_tower),
}


def is_text(tokens: jax.Array) -> jax.Array:
    """Which places of rows hold a token of the text itself, bool [B, L]."""
    end, places = jnp.argmax(tokens, axis=-1, keepdims=True), jnp.arange(tokens.shape[-1])[None]
    return (places > 0) & (places < end)

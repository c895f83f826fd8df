"""The embedding of an image as a condition: added to the time, and as tokens beside a text."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# The condition's name: standardised embeddings [B, D]; zeros for none.
EMBEDDING = "image_embedding"
NUM_TOKENS = 4


def beside(
    module: Any, conditions: Mapping[str, jax.Array], words: jax.Array | None
) -> jax.Array | None:
    """The tokens of a text [B, L, width] or None, and behind them 4 of the embedding.

    Args:
      module: a network with the fields image_embedding and dtype, inside of whose call this is.
      conditions: completed.
      words: of the text, if it reads one.

    Source: Ramesh et al. 2022 (unCLIP), section 2.1.
    """
    if not module.image_embedding:
        return words
    vectors = conditions[EMBEDDING]
    width = vectors.shape[1] if words is None else words.shape[-1]
    extra = nn.Dense(
        NUM_TOKENS * width,
        dtype=module.dtype,
        kernel_init=nn.initializers.normal(vectors.shape[1] ** -0.5),
        name="image_embedding_tokens",
    )(vectors).reshape(len(vectors), NUM_TOKENS, width)
    return extra if words is None else jnp.concatenate([words, extra], axis=1)

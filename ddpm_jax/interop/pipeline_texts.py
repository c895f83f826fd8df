"""What the text towers of a pipeline make of prompts, as Stable Diffusion's families read them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.data.tokenizers import Tokenizer
from ddpm_jax.models.encoder import layer_norm
from ddpm_jax.models.text import TextTransformer
from ddpm_jax.models.text.transformer import TextFeatures


class TextTower(NamedTuple):
    """A text encoder of a pipeline.

    Attributes:
      tokenizer: from texts to rows of tokens.
      network, params: the encoder. It is not told which tokens are padding, as diffusers does not.
    """

    tokenizer: Tokenizer
    network: TextTransformer
    params: Any

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of texts, int32 [N, L]; what does not fit is cut off, which is reported."""
        return self.tokenizer(texts, self.network.context_length)


class Told(NamedTuple):
    """What a U-Net is told of texts.

    Attributes:
      tokens: [B, L, D].
      pooled: [B, P], of a U-Net that reads a vector (SDXL); None elsewhere.
    """

    tokens: jax.Array
    pooled: jax.Array | None


def told(
    towers: Sequence[TextTower],
    params: Sequence[Any],
    rows: Sequence[jax.Array],
    *,
    pools: bool,
    clip_skip: int | None = None,
) -> Told:
    """What the towers say of texts.

    Args:
      towers: of the pipeline, in its order.
      params: of each.
      rows: of each its tokens, int [B, L].
      pools: as SDXL does it: of each tower the state before the last block, without its last norm,
        side by side; and the projection of the last tower's end of text. Elsewhere the one tower's
        last state behind its norm.
      clip_skip: read the state so many blocks earlier.

    Source: Podell et al. 2023 (SDXL), section 2.1; of clip_skip, diffusers' `encode_prompt`.
    """
    skipped = clip_skip or 0
    states: list[jax.Array] = []
    features: TextFeatures | None = None
    for tower, own, tokens in zip(towers, params, rows, strict=True):
        features = cast(TextFeatures, tower.network.apply({"params": own}, tokens))
        if pools:
            states.append(features.hidden_states[-2 - skipped])
        elif skipped:
            norm = layer_norm(None, tower.network.norm_epsilon, tower.network.dtype)
            earlier = features.hidden_states[-1 - skipped]
            states.append(cast(jax.Array, norm.apply({"params": own["norm_out"]}, earlier)))
        else:
            states.append(features.last)
    assert features is not None
    return Told(jnp.concatenate(states, axis=-1), features.embedding if pools else None)

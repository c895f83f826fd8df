"""config.data.clip: what a run that has another run's CLIP sees of its batches."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.diffusion import unclip
from ddpm_jax.errors import UserError
from ddpm_jax.models.image_embedding import EMBEDDING
from ddpm_jax.models.prior import TEXT_EMBEDDING, TOKENS, TOKENS_MASK
from ddpm_jax.training.objectives.base import Batch, Objective
from ddpm_jax.training.objectives.embedded import embedded

CLIP = "clip"  # the frozen tree's name


def told(c: ConfigDict) -> bool:
    """Whether a network is told the embedding of an image."""
    return EMBEDDING in c.model.get("conditions", ())


def shapes(c: ConfigDict) -> dict[str, tuple[tuple[int, ...], type]]:
    """The shape and dtype of the condition, if the network has it."""
    return {EMBEDDING: ((c.model.embed_dim,), np.float32)} if told(c) else {}


def dimensions(c: ConfigDict) -> int:
    """Of the embedding that a network is told; 0 for none."""
    return c.model.embed_dim if told(c) else 0


def rows(c: ConfigDict, num: int, value: Any) -> np.ndarray:
    """The condition for `num` images, float32 [num, D]: standardised; zeros where it is absent.

    Args:
      c: the config.
      num: how many images.
      value: embeddings of any length, [D] or [num, D]; None for none.

    Raises:
      UserError: for other shapes, or numbers that are not finite.
    """
    size = c.model.embed_dim
    if value is None:
        return np.zeros((num, size), np.float32)
    vectors = np.asarray(value)
    if vectors.shape not in ((size,), (num, size)) or not np.issubdtype(vectors.dtype, np.floating):
        raise UserError(
            f"condition {EMBEDDING}: need floats [{size}], or [{num}, {size}], one for each image; "
            f"got {vectors.dtype} {list(vectors.shape)}"
        )
    if not np.isfinite(vectors).all():
        raise UserError(f"condition {EMBEDDING}: it has numbers that are not finite")
    made = np.asarray(unclip.standardised(unclip.unit(jnp.asarray(vectors, jnp.float32))))
    return np.broadcast_to(made, (num, size))


def objective(c: ConfigDict, plain: Objective, model: Any) -> Objective:
    """A diffusion model's objective, told the embedding of each image of its batch by a CLIP.

    Args:
      c: the config.
      plain: of a batch that has the embeddings.
      model: the CLIP's network.
    """

    def see(batch: Batch, clip: Any) -> Batch:
        return batch | {EMBEDDING: of_images(model, clip, batch["x0"])}

    return embedded(plain, see, [CLIP]) if told(c) else plain


def of_images(model: Any, params: Any, images: jax.Array) -> jax.Array:
    """The standardised embeddings of images in [-1, 1], [B, D], by a CLIP."""
    made = model.apply({"params": params}, images, method="embed_images")
    return unclip.standardised(made)


def of_texts(model: Any, params: Any, tokens: jax.Array) -> Mapping[str, jax.Array]:
    """What a prior is told of texts by a CLIP: a standardised embedding, tokens and their mask."""
    read = model.apply({"params": params}, tokens, method="read_texts")
    made = unclip.standardised(read.embedding)
    return {TEXT_EMBEDDING: made, TOKENS: read.tokens, TOKENS_MASK: read.mask}

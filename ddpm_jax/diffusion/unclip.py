"""Embeddings of a CLIP as what is drawn: their scale, the better of several, ways between them."""

import jax
import jax.numpy as jnp


def standardised(embeddings: jax.Array) -> jax.Array:
    """Embeddings of unit length times sqrt(D): mean square 1 a dimension, as a diffusion takes it.

    Args:
      embeddings: [..., D].

    Source: Ramesh et al. 2022 (unCLIP), appendix C, whose factor of 17.2 does the same for theirs.
    """
    return embeddings * embeddings.shape[-1] ** 0.5


def unit(vectors: jax.Array) -> jax.Array:
    """Each vector divided by its length, [..., D]; a zero vector stays."""
    length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return jnp.where(length > 0, vectors / jnp.where(length > 0, length, 1), vectors)


def best(candidates: jax.Array, text: jax.Array) -> jax.Array:
    """Of several image embeddings of each text the one with the largest dot product with it.

    Args:
      candidates: [B, K, D].
      text: the texts' embeddings, [B, D].

    Returns:
      [B, D]; of two equal ones the first.

    Source: Ramesh et al. 2022, section 2.2, with K = 2.
    """
    products = jnp.einsum("bkd,bd->bk", candidates, text)
    chosen = jnp.argmax(products, axis=1)[:, None, None]
    return jnp.take_along_axis(candidates, chosen, axis=1)[:, 0]


def slerp(start: jax.Array, end: jax.Array, theta: jax.Array) -> jax.Array:
    """The way between two points of the unit sphere at constant speed, [..., D].

    Args:
      start, end: of unit length, [..., D]; not opposite to each other.
      theta: the share of the way, in [0, 1], [...].

    Source: Shoemake 1985, "Animating rotation with quaternion curves", section 3.3.
    """
    # By both diagonals of the rhombus: arccos has no digits left for small angles.
    angle = 2 * jnp.arctan2(
        jnp.linalg.norm(start - end, axis=-1), jnp.linalg.norm(start + end, axis=-1)
    )
    share = jnp.asarray(theta, start.dtype)
    shape = jnp.broadcast_shapes(angle.shape, share.shape)
    angle, share = (jnp.broadcast_to(one, shape) for one in (angle, share))
    # sin(share angle) / sin(angle), which is the share where the angle is 0.
    weights = [part * jnp.sinc(part * angle / jnp.pi) for part in (1 - share, share)]
    of_start, of_end = (weight / jnp.sinc(angle / jnp.pi) for weight in weights)
    return of_start[..., None] * start + of_end[..., None] * end


def text_diff(image: jax.Array, before: jax.Array, after: jax.Array, theta: jax.Array) -> jax.Array:
    """An image's embedding, turned by theta towards what leads from one text to another, [..., D].

    Args:
      image: of unit length, [..., D].
      before, after: the embeddings of the text that describes it, and of the one that is to.
      theta: the share of the way towards the difference, [...]; up to 0.25 or 0.5 in the paper.

    Source: Ramesh et al. 2022, section 3.3.
    """
    return slerp(image, unit(after - before), theta)

"""Losses that compare the rows of a batch: images with texts, an anchor with two others."""

import jax
import jax.numpy as jnp

LARGEST_SCALE = 100.0


def clip_loss(
    image_embeds: jax.Array,
    text_embeds: jax.Array,
    logit_scale: jax.Array | float,
    shown: jax.Array | None = None,
) -> jax.Array:
    """Which text is an image's, and which image is a text's, among those of the batch.

    The mean of the two cross-entropies of each pair. In expectation over batches of independent
    pairs it is least where the scaled dot products are log p(image, text) / (p(image) p(text)), up
    to what depends on neither.

    Args:
      image_embeds: [B, D]; CLIP's are of unit length.
      text_embeds: [B, D], row by row those that belong to the images.
      logit_scale: what the dot products are multiplied by; see `at_most` for its bound.
      shown: bool [B], the rows among which is chosen, at least one; None for all. What the others
        give is theirs to leave out.

    Returns:
      [B], in float32 (float64 of float64).

    Raises:
      ValueError: for embeddings of different shapes.

    Source: Radford et al. 2021 (CLIP), figure 3; van den Oord et al. 2018 (InfoNCE), equation 4.
    """
    _check(image_embeds, text_embeds)
    logits = logit_scale * _products(image_embeds, text_embeds)
    # Not their diagonal: of rows that lie on several devices it would gather the whole square.
    right = logit_scale * (_wide(image_embeds) * _wide(text_embeds)).sum(axis=-1)
    if shown is not None:
        logits = jnp.where(shown[:, None] & shown[None, :], logits, -jnp.inf)
        right = jnp.where(shown, right, 0)
    of_images = jax.nn.logsumexp(logits, axis=1) - right
    of_texts = jax.nn.logsumexp(logits, axis=0) - right
    if shown is not None:
        of_images, of_texts = jnp.where(shown, of_images, 0), jnp.where(shown, of_texts, 0)
    return (of_images + of_texts) / 2


def triplet(
    anchors: jax.Array, positives: jax.Array, negatives: jax.Array, margin: float = 0.2
) -> jax.Array:
    """max(0, |a - p|² - |a - n|² + margin), row by row.

    Args:
      anchors, positives, negatives: [B, D].
      margin: in squared distances; at least 0.

    Returns:
      [B], in float32 (float64 of float64).

    Raises:
      ValueError: for embeddings of different shapes, or a negative margin.

    Source: Schroff et al. 2015 (FaceNet), equation 2.
    """
    _check(anchors, positives)
    _check(anchors, negatives)
    if margin < 0:
        raise ValueError(f"need margin >= 0, got {margin}")

    def squared(other: jax.Array) -> jax.Array:
        return (_wide(anchors - other) ** 2).sum(axis=-1)

    return jnp.maximum(squared(positives) - squared(negatives) + margin, 0)


def hardest(image_embeds: jax.Array, text_embeds: jax.Array) -> jax.Array:
    """Of each image, the text of another that is nearest: the place of its negative, int [B].

    Args:
      image_embeds, text_embeds: [B, D], B >= 2, row by row those that belong together.

    Raises:
      ValueError: for embeddings of different shapes, or a single row.
    """
    _check(image_embeds, text_embeds)
    if len(image_embeds) < 2:
        raise ValueError("need at least two rows: a row alone has no negative")
    products = _products(image_embeds, text_embeds)
    squares = (_wide(text_embeds) ** 2).sum(axis=-1)[None, :] - 2 * products
    own = jnp.eye(len(image_embeds), dtype=bool)
    return jnp.argmin(jnp.where(own, jnp.inf, squares), axis=1)


@jax.custom_vjp
def at_most(value: jax.Array, limit: float = LARGEST_SCALE) -> jax.Array:
    """min(value, limit), whose gradient still leads back from beyond the limit.

    There descent may lower the value and not raise it: as if it were set back to the limit after
    every step, which is CLIP's rule for its scale.

    Args:
      value: any shape.
      limit: a number.

    Source: Radford et al. 2021 (CLIP), section 2.5.
    """
    return jnp.minimum(value, limit)


def _at_most_forward(value: jax.Array, limit: float) -> tuple[jax.Array, jax.Array]:
    return jnp.minimum(value, limit), value >= limit


def _at_most_backward(beyond: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, None]:
    return jnp.where(beyond & (cotangent < 0), 0, cotangent), None


at_most.defvjp(_at_most_forward, _at_most_backward)


def _products(a: jax.Array, b: jax.Array) -> jax.Array:
    """[B, D], [B, D] -> [B, B]; in full precision: the scale makes a hundred of their error."""
    return jnp.einsum("id,jd->ij", _wide(a), _wide(b), precision=jax.lax.Precision.HIGHEST)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _check(one: jax.Array, other: jax.Array) -> None:
    if one.ndim != 2 or one.shape != other.shape:
        raise ValueError(f"need two arrays [B, D] of one shape, got {one.shape} and {other.shape}")

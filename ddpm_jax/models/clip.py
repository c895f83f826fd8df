"""CLIP: a tower for images and a tower for texts, whose embeddings are compared by their angle."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

FIRST_SCALE = 1 / 0.07


class ClipEmbeds(NamedTuple):
    """What CLIP says of images and texts.

    Attributes:
      image_embeds: of unit length, float32 [B, D].
      text_embeds: of unit length, float32 [B', D].
      logit_scale: what their dot products are multiplied by, a scalar above 0.
    """

    image_embeds: jax.Array
    text_embeds: jax.Array
    logit_scale: jax.Array


class Clip(nn.Module):
    """Images and texts to embeddings of unit length, and the scale of their dot products.

    Attributes:
      image: the tower of images, such as `vision.VisionTransformer`: gives features with an
        `embedding`, [B, D].
      text: the tower of texts, such as `text.TextTransformer`: likewise, of the same D.
      first_scale: of the dot products before training.

    Example:
      image_embeds, text_embeds, scale = clip.apply({"params": params}, images, tokens)
      logits_per_image = scale * image_embeds @ text_embeds.T
      image_embeds = clip.apply({"params": params}, images, method="embed_images")

    Source: Radford et al. 2021, figure 3 and section 2.5.
    """

    image: nn.Module
    text: nn.Module
    first_scale: float = FIRST_SCALE

    def setup(self) -> None:
        """The one parameter beside the towers': the logarithm of the scale."""
        start = nn.initializers.constant(math.log(self.first_scale))
        self.log_scale = self.param("log_scale", start, ())

    def __call__(
        self, images: jax.Array, tokens: jax.Array, mask: jax.Array | None = None, **options: Any
    ) -> ClipEmbeds:
        """The embeddings of images [B, H, W, C], normalised, and of tokens, int [B', L].

        Args:
          images: minus their channels' mean, divided by their standard deviation.
          tokens: of the texts.
          mask: bool [B', L], the tokens to see; None for all.
          options: handed to the images' tower, such as train=True to a network with batch norms.
        """
        return ClipEmbeds(
            self.embed_images(images, **options),
            self.embed_texts(tokens, mask),
            jnp.exp(self.log_scale),
        )

    def embed_images(self, images: jax.Array, **options: Any) -> jax.Array:
        """[B, H, W, C] -> [B, D], of unit length; the options as in `__call__`."""
        return unit(self.image(images, **options).embedding)

    def embed_texts(self, tokens: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """int [B, L], bool [B, L] or None -> [B, D], of unit length."""
        return unit(self.text(tokens, mask).embedding)


def unit(x: jax.Array) -> jax.Array:
    """Each row divided by its length, in float32. [B, D] -> [B, D]; not finite for a zero row."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

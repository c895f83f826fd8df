"""CLIP: a tower for images and a tower for texts, whose embeddings are compared by their angle."""

import math
from collections.abc import Sequence
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


class TextRead(NamedTuple):
    """What a CLIP makes of texts, token by token too.

    Attributes:
      embedding: of unit length, float32 [B, D].
      tokens: the text tower's states behind its last norm, [B, L, width]; of a bag of words, the
        words' vectors.
      mask: which of them are of the text, with its end, bool [B, L].
    """

    embedding: jax.Array
    tokens: jax.Array
    mask: jax.Array


class Clip(nn.Module):
    """Images and texts to embeddings of unit length, and the scale of their dot products.

    Attributes:
      image: the tower of images, such as `vision.VisionTransformer`: gives features with an
        `embedding`, [B, D].
      text: the tower of texts, such as `text.TextTransformer`: likewise, of the same D.
      first_scale: of the dot products before training.
      mean, std: of pixels in [0, 1], one number or one a channel: images are then in [-1, 1] and
        are normalised here; () for images that are normalised already.
      masked: where no mask is given, what is behind a text's end is hidden, the end being the
        largest number of its row.

    Example:
      image_embeds, text_embeds, scale = clip.apply({"params": params}, images, tokens)
      logits_per_image = scale * image_embeds @ text_embeds.T
      image_embeds = clip.apply({"params": params}, images, method="embed_images")

    Source: Radford et al. 2021, figure 3 and section 2.5.
    """

    image: nn.Module
    text: nn.Module
    first_scale: float = FIRST_SCALE
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    masked: bool = False

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
          options: handed to the images' tower, such as train=True to a network with batch norms, or
            time= to one of noised images.
        """
        return ClipEmbeds(
            self.embed_images(images, **options),
            self.embed_texts(tokens, mask),
            jnp.exp(self.log_scale),
        )

    def embed_images(self, images: jax.Array, **options: Any) -> jax.Array:
        """[B, H, W, C] -> [B, D], of unit length; the options as in `__call__`."""
        return unit(self.image(self._normalised(images), **options).embedding)

    def features(self, images: jax.Array, **options: Any) -> jax.Array:
        """What the images' tower makes of them before it projects: [B, H, W, C] -> [B, width]."""
        return self.image(self._normalised(images), **options).pooled

    def embed_texts(self, tokens: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """int [B, L], bool [B, L] or None -> [B, D], of unit length."""
        if self.masked and mask is None:
            mask = up_to_end(tokens)
        return unit(self.text(tokens, mask).embedding)

    def read_texts(self, tokens: jax.Array) -> TextRead:
        """What is known of texts, int [B, L], whose end is the largest number of its row."""
        mask = up_to_end(tokens)
        features = self.text(tokens, mask if self.masked else None)
        return TextRead(unit(features.embedding), features.last, mask)

    def _normalised(self, images: jax.Array) -> jax.Array:
        return normalised(images, self.mean, self.std)


def normalised(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Images in [-1, 1] minus a mean and divided by a deviation, of pixels in [0, 1]; () for none.

    Args:
      images: [B, H, W, C].
      mean, std: one number, or one a channel.
    """
    if not mean:
        return images
    shape = (1, 1, 1, -1)
    centre, spread = jnp.asarray(mean, images.dtype), jnp.asarray(std, images.dtype)
    return ((images + 1) / 2 - centre.reshape(shape)) / spread.reshape(shape)


def up_to_end(tokens: jax.Array) -> jax.Array:
    """Which tokens are of the text, with its end, the largest number of a row: bool [B, L]."""
    return jnp.arange(tokens.shape[1])[None, :] <= jnp.argmax(tokens, axis=1)[:, None]


def unit(x: jax.Array) -> jax.Array:
    """Each row divided by its length, in float32. [B, D] -> [B, D]; not finite for a zero row."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

"""The transformer that reads patches of an image, as CLIP has it."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.attention import XLA
from ddpm_jax.models.encoder import Encoder, layer_norm, projection
from ddpm_jax.models.layers import sinusoidal_embedding


class ImageFeatures(NamedTuple):
    """What a tower makes of images.

    Attributes:
      last: the features of every place, before pooling: of a transformer [B, N + 1, width], the
        class token first, before the last norm; of a residual network [B, H / 32, W / 32, C].
      pooled: one vector of the image, [B, width].
      embedding: its projection, [B, embed_dim]; `pooled` itself without one.
    """

    last: jax.Array
    pooled: jax.Array
    embedding: jax.Array


class VisionTransformer(nn.Module):
    """Images to features: patches and a class token through an encoder.

    Attributes:
      image_size: height and width, or both in one; a remainder of a patch at the right and below
        is not read.
      patch_size: of a square patch.
      width, depth, num_heads: of the encoder.
      mlp_width: of its hidden layers; None for 4 width.
      activation: a key of `encoder.ACTIVATIONS`.
      embed_dim: of the projection, which has no bias; None for no projection.
      norm_epsilon: of every LayerNorm.
      timed: images are noised, and each comes with its time, whose embedding is added to every
        token.
      attention, remat: as in `Encoder`.
      dtype: of the computation; norms and softmax run in float32.

    Raises:
      ValueError: for images of another size, or a time where none is read, or none where one is.

    Source: Dosovitskiy et al. 2020 (ViT); the norm before the encoder, Radford et al. 2021 (CLIP),
      section 2.4; noised images, Nichol et al. 2021 (GLIDE), section 2.4.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 32
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int | None = None
    activation: str = "quick_gelu"
    embed_dim: int | None = None
    norm_epsilon: float = 1e-5
    timed: bool = False
    attention: str = XLA
    remat: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, time: jax.Array | None = None
    ) -> ImageFeatures:  # [B, H, W, C], [B] or a scalar
        """The features of images, of a `timed` tower at their times, as `network_time` has them."""
        check_size(images, self.image_size)
        if self.timed != (time is not None):
            raise ValueError(f"timed={self.timed}: {'need a' if self.timed else 'takes no'} time")
        normal = nn.initializers.normal(self.width**-0.5)
        patches = patched(images, self.patch_size)
        x = nn.Dense(
            self.width,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(patches.shape[-1] ** -0.5),
            name="patch_embedding",
        )(patches)
        b, n, _ = x.shape
        first = self.param("class_token", normal, (1, 1, self.width)).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (b, 1, self.width)), x], axis=1)
        x = x + self.param("places", normal, (1, n + 1, self.width)).astype(self.dtype)
        if time is not None:
            x = x + self._of_time(jnp.broadcast_to(time, (b,)))[:, None]
        last = Encoder(
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width or 4 * self.width,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            attention=self.attention,
            remat=self.remat,
            dtype=self.dtype,
            name="encoder",
        )(layer_norm("norm_in", self.norm_epsilon, self.dtype)(x))[-1]
        pooled = layer_norm("norm_out", self.norm_epsilon, self.dtype)(last[:, 0])
        embedding = pooled
        if self.embed_dim is not None:
            embedding = projection(self.embed_dim, self.width, self.dtype)(pooled)
        return ImageFeatures(last, pooled, embedding)

    def _of_time(self, time: jax.Array) -> jax.Array:  # [B] -> [B, width]
        x = sinusoidal_embedding(time, self.width)
        x = nn.Dense(self.width, dtype=self.dtype, name="time_dense_0")(x)
        return nn.Dense(self.width, dtype=self.dtype, name="time_dense_1")(nn.swish(x))


def patched(images: jax.Array, size: int) -> jax.Array:
    """The whole patches in reading order. [B, H, W, C] -> [B, (H // size) (W // size), size² C]."""
    b, h, w, c = images.shape
    rows, columns = h // size, w // size
    x = images[:, : rows * size, : columns * size].reshape(b, rows, size, columns, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * columns, size * size * c)


def check_size(images: jax.Array, image_size: int | tuple[int, int]) -> None:
    """Raises ValueError for images [B, H, W, C] of another size than a tower has places for."""
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if images.ndim != 4 or images.shape[1:3] != size:
        raise ValueError(f"need images [B, {size[0]}, {size[1]}, C], got {images.shape}")

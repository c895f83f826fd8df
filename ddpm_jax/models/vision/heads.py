"""What stands on an images' tower that is trained without texts."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.clip import normalised, unit


class LinearHead(nn.Module):
    """A linear map to so many scores.

    Attributes:
      num: of scores.
    """

    num: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, width] -> [B, num]
        return nn.Dense(self.num, name="scores")(x)


class PrototypeHead(nn.Module):
    """An MLP to unit length, and its products with prototypes of unit length, as DINO has it.

    Attributes:
      num: of prototypes.
      width: of the two hidden layers.
      bottleneck: of what is compared with the prototypes.

    Source: Caron et al. 2021 (DINO), section 3.1 and appendix C, with the prototypes' lengths held
      at 1.
    """

    num: int
    width: int = 256
    bottleneck: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, width] -> [B, num]
        init = nn.initializers.truncated_normal(0.02)
        for k, features in enumerate((self.width, self.width)):
            x = nn.gelu(nn.Dense(features, kernel_init=init, name=f"mlp_{k}")(x), approximate=False)
        x = unit(nn.Dense(self.bottleneck, kernel_init=init, name="mlp_2")(x) + 1e-9)
        normal = nn.initializers.normal(1.0)
        prototypes = unit(self.param("prototypes", normal, (self.num, self.bottleneck)))
        return jnp.einsum("bd,kd->bk", x, prototypes)


class HeadedTower(nn.Module):
    """An images' tower with a head, called on images alone.

    Attributes:
      image: the tower, such as `VisionTransformer`: gives features with `pooled`, [B, width].
      head: from these to scores [B, K].
      mean, std: as of `models.Clip`.
    """

    image: nn.Module
    head: nn.Module
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __call__(self, images: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, K]
        """The head's scores."""
        return self.head(self.features(images))

    def features(self, images: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, width]
        """What the tower makes of images."""
        return self.image(normalised(images, self.mean, self.std)).pooled

    def embed_images(self, images: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, width]
        """The same to unit length."""
        return unit(self.features(images))

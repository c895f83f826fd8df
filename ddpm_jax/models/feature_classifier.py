"""A small classifier of clean images, whose last hidden layer is a space of features."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

GRID = 16  # patches along the longer side at most, so that images of any size cost the same


class FeatureClassifier(nn.Module):
    """Two convolutions between patches, one hidden layer, and a head for each attribute.

    Patches become channels by matrix products: on CPUs, the gradients of strided convolutions took
    most of the time.

    Attributes:
      heads: (name, number of values) of each.
      width: channels of the first convolution; each patch afterwards doubles them.
      features: width of the hidden layer.
      dropout: rate, in front of the hidden layer.
    """

    heads: tuple[tuple[str, int], ...]
    width: int = 32
    features: int = 64
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """([B, features], the logits [B, K] of each head by name).

        Args:
          images: [B, H, W, C] in [-1, 1].
          train: turns dropout on; `apply` then needs rngs={"dropout": key}.
        """
        # Accelerators round to fewer bits by default; features should be the same everywhere.
        dense = functools.partial(nn.Dense, precision=jax.lax.Precision.HIGHEST)
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), precision=jax.lax.Precision.HIGHEST)
        h = patches(images, -(-max(images.shape[1:3]) // GRID))
        h = nn.swish(conv(self.width, name="conv_0")(h))
        h = nn.swish(dense(2 * self.width, name="patch_1")(patches(h, 2)))
        h = nn.swish(conv(2 * self.width, name="conv_1")(h))
        if max(h.shape[1:3]) > 4:
            h = nn.swish(dense(4 * self.width, name="patch_2")(patches(h, 2)))
        h = nn.Dropout(self.dropout, deterministic=not train)(h.reshape(len(h), -1))
        hidden = nn.swish(dense(self.features, name="hidden")(h))
        logits = {name: dense(size, name=f"head_{name}")(hidden) for name, size in self.heads}
        # Set after training, so that features are of about the size 1, which KID's kernel is for.
        scale = self.param("feature_scale", nn.initializers.ones, ())
        return hidden * scale, logits


def patches(x: jax.Array, size: int) -> jax.Array:
    """Squares of pixels as channels; zeros complete the last ones.

    [B, H, W, C] -> [B, ceil(H / size), ceil(W / size), size * size * C]
    """
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), (0, -x.shape[2] % size), (0, 0)))
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // size, w // size, size * size * c)

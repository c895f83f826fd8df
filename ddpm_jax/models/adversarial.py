"""A generator of images and what judges them, in DCGAN's manner: one resolution after the other."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.layers import GroupNorm, initializer, upsample_nearest

LEAK = 0.2  # the slope of what a discriminator's units hold back
SMALLEST = 4  # pixels high, where a generator begins


class Generator(nn.Module):
    """Noise to images: a small one is made, and doubled until it has its size.

    Attributes:
      image_size: (height, width), SMALLEST or more times a power of two.
      channels: of an image.
      width: of the last level; each one before it has twice as many channels.
      num_classes: 0 for none; a class's embedding stands beside the noise.
      num_groups: of GroupNorm, which takes the place of DCGAN's batch norm: an image then depends
        on its own noise alone.
      dtype: of the computation; parameters and output are float32.

    Raises:
      ValueError: for an image size that no doubling leads to.

    Source: Radford et al. 2015 (DCGAN), section 3; nearest neighbours and a convolution in place of
      transposed ones, Odena et al. 2016.
    """

    image_size: tuple[int, int] = (32, 32)
    channels: int = 3
    width: int = 64
    num_classes: int = 0
    num_groups: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, z: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:  # [B, Z], int [B] or None -> [B, H, W, C]
        """Images in [-1, 1] of noise; label where there are classes."""
        doublings = num_doublings(self.image_size)
        height, width = (size // 2**doublings for size in self.image_size)
        conv = functools.partial(nn.Conv, dtype=self.dtype, kernel_init=initializer())
        h = z.astype(self.dtype)
        if self.num_classes:
            table = nn.Embed(
                self.num_classes, z.shape[-1], dtype=self.dtype, name="label_embedding"
            )
            h = jnp.concatenate([h, table(label)], axis=-1)
        features = self.width * 2**doublings
        h = nn.Dense(height * width * features, dtype=self.dtype, name="dense_in")(h)
        h = h.reshape(-1, height, width, features)
        for level in range(doublings + 1):
            if level:
                features //= 2
                h = conv(features, (3, 3), name=f"conv_{level}")(upsample_nearest(h))
            h = nn.relu(GroupNorm(self.num_groups, dtype=self.dtype, name=f"norm_{level}")(h))
        images = jnp.tanh(conv(self.channels, (3, 3), name="conv_out")(h))
        return images.astype(jnp.promote_types(jnp.float32, z.dtype))


class Discriminator(nn.Module):
    """Images to one logit each, of being real: halved until they are small.

    Attributes:
      width: channels at the full resolution, twice as many behind each halving.
      num_classes: 0 for none; else an image is judged as one of its class.
      dtype: of the computation; parameters and output are float32.

    Raises:
      ValueError: for an image size that no halving leads to.

    Source: Radford et al. 2015 (DCGAN), section 3; classes by projection, Miyato & Koyama 2018,
      figure 2.
    """

    width: int = 64
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:  # [B, H, W, C], int [B] or None -> [B]
        """The logit of each image."""
        conv = functools.partial(nn.Conv, dtype=self.dtype, kernel_init=initializer())
        h = _leaky(conv(self.width, (3, 3), name="conv_in")(x.astype(self.dtype)))
        for level in range(num_doublings(x.shape[1:3])):
            features = self.width * 2 ** (level + 1)
            h = _leaky(conv(features, (4, 4), strides=(2, 2), name=f"conv_{level}")(h))
        features = h.reshape(len(h), -1)
        logits = nn.Dense(1, dtype=self.dtype, name="dense_out")(features)[:, 0]
        if self.num_classes:
            table = nn.Embed(
                self.num_classes, features.shape[-1], dtype=self.dtype, name="label_embedding"
            )
            logits += (table(label) * features).sum(axis=-1) / math.sqrt(features.shape[-1])
        return logits.astype(jnp.promote_types(jnp.float32, x.dtype))


class PatchDiscriminator(nn.Module):
    """A logit for each overlapping patch of an image, as VQGAN and LDM have it (PatchGAN).

    Attributes:
      width: channels behind the first convolution.
      num_layers: convolutions of stride 2; the patch of 3 is 70 pixels high.
      num_groups: of GroupNorm, in place of batch norm, whose statistics all images share.
      dtype: of the computation; parameters and output are float32.

    Source: Isola et al. 2017 (pix2pix), section 3.2.2 and appendix 6.1.2.
    """

    width: int = 64
    num_layers: int = 3
    num_groups: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, h, w, 1]
        """The logits of the patches of images."""
        pad = ((1, 1), (1, 1))
        conv = functools.partial(
            nn.Conv, kernel_size=(4, 4), padding=pad, dtype=self.dtype, kernel_init=initializer()
        )
        h = _leaky(conv(self.width, strides=(2, 2), name="conv_in")(x.astype(self.dtype)))
        for layer in range(1, self.num_layers + 1):
            strides = (2, 2) if layer < self.num_layers else (1, 1)
            features = self.width * min(2**layer, 8)
            h = conv(features, strides=strides, use_bias=False, name=f"conv_{layer}")(h)
            h = _leaky(GroupNorm(self.num_groups, dtype=self.dtype, name=f"norm_{layer}")(h))
        return conv(1, name="conv_out")(h).astype(jnp.promote_types(jnp.float32, x.dtype))


class Gan(nn.Module):
    """A generator and the discriminator that judges it, each with parameters of its own.

    Attributes:
      latent_size: Z, of the noise.
      image_size, channels: of an image.
      width: the generator's; see there.
      discriminator_width: the discriminator's.
      num_classes, num_groups, dtype: as in both.

    Raises:
      ValueError: for an image size that no doubling leads to.
    """

    latent_size: int = 128
    image_size: tuple[int, int] = (32, 32)
    channels: int = 3
    width: int = 64
    discriminator_width: int = 64
    num_classes: int = 0
    num_groups: int = 8
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Both networks."""
        both = {"num_classes": self.num_classes, "dtype": self.dtype}
        self.generator = Generator(
            self.image_size, self.channels, self.width, num_groups=self.num_groups, **both
        )
        self.discriminator = Discriminator(self.discriminator_width, **both)

    def __call__(
        self, z: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:  # [B, Z], int [B] or None -> [B]
        """What the discriminator makes of the generator's images."""
        return self.judge(self.generate(z, label), label)

    def generate(
        self, z: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:  # [B, Z], int [B] or None -> [B, H, W, C]
        """The generator's images."""
        return self.generator(z, label)

    def judge(
        self, x: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:  # [B, H, W, C], int [B] or None -> [B]
        """The discriminator's logits."""
        return self.discriminator(x, label)


def num_doublings(size: tuple[int, ...]) -> int:
    """How often an image of SMALLEST to 2 SMALLEST - 1 pixels is doubled to come to a size.

    Raises:
      ValueError: for a size that no doubling leads to.
    """
    doublings = max(int(math.log2(min(size) / SMALLEST)), 0)
    if min(size) < SMALLEST or any(length % 2**doublings for length in size):
        raise ValueError(
            f"image size {size[0]}x{size[1]}: need at least {SMALLEST} pixels, and so many times "
            f"a power of two (32x32, 8x16, 48x48)"
        )
    return doublings


def _leaky(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, LEAK)

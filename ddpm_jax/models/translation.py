"""Two generators between two sorts of images, and what judges either sort (CycleGAN)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.adversarial import PatchDiscriminator
from ddpm_jax.models.layers import GroupNorm, initializer, upsample_nearest

TO_A, TO_B = "to_a", "to_b"  # the generators, methods of `CycleGan` and their parameters
JUDGE_A, JUDGE_B = "judge_a", "judge_b"  # the discriminators, likewise


class Translator(nn.Module):
    """An image to an image of the same size: down, residual blocks, and up.

    Attributes:
      width: channels at the full resolution, twice as many behind each halving.
      num_halvings: before the residual blocks.
      num_blocks: residual ones.
      channels: of an image.
      dtype: of the computation; parameters and output are float32.

    Raises:
      ValueError: for a size that does not halve so often.

    Source: Zhu et al. 2017 (CycleGAN), section 4, after Johnson et al. 2016; nearest neighbours and
      a convolution in place of transposed ones, Odena et al. 2016.
    """

    width: int = 64
    num_halvings: int = 2
    num_blocks: int = 6
    channels: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, H, W, C]
        """Images in [-1, 1] of images in [-1, 1]."""
        factor = 2**self.num_halvings
        if any(size % factor for size in x.shape[1:3]):
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} do not halve {self.num_halvings} times"
            )
        conv = functools.partial(nn.Conv, dtype=self.dtype, kernel_init=initializer())
        h = conv(self.width, (7, 7), name="conv_in")(x.astype(self.dtype))
        h = nn.relu(self._norm("norm_in", h))
        for k in range(self.num_halvings):
            h = conv(self.width * 2 ** (k + 1), (3, 3), strides=(2, 2), name=f"down_{k}")(h)
            h = nn.relu(self._norm(f"down_norm_{k}", h))
        features = h.shape[-1]
        for k in range(self.num_blocks):
            inner = conv(features, (3, 3), name=f"block_{k}_conv_0")(h)
            inner = nn.relu(self._norm(f"block_{k}_norm_0", inner))
            inner = conv(features, (3, 3), name=f"block_{k}_conv_1")(inner)
            h += self._norm(f"block_{k}_norm_1", inner)
        for k in reversed(range(self.num_halvings)):
            h = conv(self.width * 2**k, (3, 3), name=f"up_{k}")(upsample_nearest(h))
            h = nn.relu(self._norm(f"up_norm_{k}", h))
        images = jnp.tanh(conv(self.channels, (7, 7), name="conv_out")(h))
        return images.astype(jnp.promote_types(jnp.float32, x.dtype))

    def _norm(self, name: str, h: jax.Array) -> jax.Array:
        """Each channel of each image by itself (instance norm)."""
        return GroupNorm(h.shape[-1], 1e-5, self.dtype, name=name)(h)


class CycleGan(nn.Module):
    """Two sorts of images, A and B: a generator to each, and a discriminator of each.

    Attributes:
      width, num_halvings, num_blocks, channels: of the generators.
      discriminator_width, discriminator_layers: of the discriminators' patches.
      num_groups: of the discriminators.
      dtype: of the computation; parameters and output are float32.
    """

    width: int = 64
    num_halvings: int = 2
    num_blocks: int = 6
    channels: int = 3
    discriminator_width: int = 64
    discriminator_layers: int = 3
    num_groups: int = 8
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """All four networks."""
        made = functools.partial(
            Translator, self.width, self.num_halvings, self.num_blocks, self.channels, self.dtype
        )
        self.to_a_network = made(name=TO_A)
        self.to_b_network = made(name=TO_B)
        judge = functools.partial(
            PatchDiscriminator,
            self.discriminator_width,
            self.discriminator_layers,
            self.num_groups,
            self.dtype,
        )
        self.judge_a_network, self.judge_b_network = judge(name=JUDGE_A), judge(name=JUDGE_B)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:  # [B, H, W, C]
        """What all four make of images, for their parameters."""
        return self.to_a(x), self.to_b(x), self.judge_a(x), self.judge_b(x)

    def to_a(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, H, W, C]
        """Images of sort A."""
        return self.to_a_network(x)

    def to_b(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, H, W, C]
        """Images of sort B."""
        return self.to_b_network(x)

    def judge_a(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, h, w, 1]
        """The logits of patches, of being real and of sort A."""
        return self.judge_a_network(x)

    def judge_b(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, h, w, 1]
        """The logits of patches, of being real and of sort B."""
        return self.judge_b_network(x)

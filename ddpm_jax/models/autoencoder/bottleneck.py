"""An encoder, a decoder, and what stands between them: nothing, a normal law, or a codebook."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import quantisation
from ddpm_jax.diffusion.likelihood import posteriors
from ddpm_jax.diffusion.likelihood.posteriors import Posterior
from ddpm_jax.diffusion.quantisation import Quantised
from ddpm_jax.models.attention import XLA
from ddpm_jax.models.autoencoder.convolutional import Decoder, Encoder
from ddpm_jax.models.convolution import PLAIN as BY_DEFINITION
from ddpm_jax.models.layers import initializer

# What stands between: the encoder's output itself; a normal law of latents (a VAE, AutoencoderKL);
# the nearest codes (VQ).
PLAIN, NORMAL, QUANTISED = "plain", "normal", "quantised"
BOTTLENECKS = (PLAIN, NORMAL, QUANTISED)


class Encoded(NamedTuple):
    """What an encoder knows of an image.

    Attributes:
      latents: [B, h, w, C], without chance: the mean of a law, the vectors before they are
        quantised.
      posterior: of a NORMAL bottleneck; None elsewhere.
    """

    latents: jax.Array
    posterior: Posterior | None


class Decoded(NamedTuple):
    """What a decoder says of an image: N(mean, exp(log_variance)) of each pixel.

    Attributes:
      mean: [B, H, W, C], in [-1, 1] as far as the network learned it.
      log_variance: broadcast against mean; 0 where the network has none of its own.
    """

    mean: jax.Array
    log_variance: jax.Array


# Where the variance of a pixel comes from: there is none; one number that is learned; the decoder
# says it of each pixel.
NONE, SHARED, EACH = "none", "shared", "each"
SCALES = (NONE, SHARED, EACH)


class Autoencoder(nn.Module):
    """Images to latents and back.

    Attributes:
      bottleneck: one of BOTTLENECKS.
      block_channels, num_blocks, attention_levels, mid_attention: as in `convolutional.Half`.
      latent_channels: of the decoder's input.
      channels: of an image.
      num_codes: of the codebook.
      code_channels: of a code; None for latent_channels.
      projected: whether a 1x1 convolution stands on either side of the bottleneck.
      scale: one of SCALES, where the variance of a pixel comes from.
      num_classes: of the label that the decoder is told, as in `convolutional.Decoder`.
      head_dim, num_heads, num_groups, norm_epsilon, dropout: as in `convolutional.Half`.
      remat, attention, kernel_gradient, dtype: as in `convolutional.Half`.

    Example:
      encoded = model.apply(variables, images, method="encode")
      mean = model.apply(variables, encoded.latents, method="decode").mean

    Source: Esser et al. 2021 (VQGAN); Rombach et al. 2022 (LDM), section 3.1.
    """

    bottleneck: str = NORMAL
    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    num_blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    mid_attention: bool = True
    latent_channels: int = 4
    channels: int = 3
    num_codes: int = 0
    code_channels: int | None = None
    projected: bool = True
    scale: str = NONE
    num_classes: int = 0
    head_dim: int | None = None
    num_heads: int = 1
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    dropout: float = 0.0
    remat: str = "none"
    attention: str = XLA
    kernel_gradient: str = BY_DEFINITION
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """The parts, as a published folder names them.

        Raises:
          ValueError: for an unknown bottleneck or scale, or a codebook without codes.
        """
        if self.bottleneck not in BOTTLENECKS or self.scale not in SCALES:
            raise ValueError(
                f"need a bottleneck of {', '.join(BOTTLENECKS)} and a scale of "
                f"{', '.join(SCALES)}, got {self.bottleneck!r} and {self.scale!r}"
            )
        if (self.bottleneck == QUANTISED) != (self.num_codes >= 1):
            raise ValueError(
                f"{self.num_codes} codes for a bottleneck that is {self.bottleneck}: a quantised "
                "one needs at least 1, and the others have none"
            )
        shared = {
            "block_channels": self.block_channels,
            "num_blocks": self.num_blocks,
            "attention_levels": self.attention_levels,
            "mid_attention": self.mid_attention,
            "head_dim": self.head_dim,
            "num_heads": self.num_heads,
            "num_groups": self.num_groups,
            "norm_epsilon": self.norm_epsilon,
            "dropout": self.dropout,
            "remat": self.remat,
            "attention": self.attention,
            "kernel_gradient": self.kernel_gradient,
            "dtype": self.dtype,
        }
        moments = self.latent_channels * (1 + (self.bottleneck == NORMAL))
        codes = self.code_channels or self.latent_channels
        inner = codes if self.bottleneck == QUANTISED else moments
        self.encoder = Encoder(out_channels=moments, **shared)
        pixels = self.channels * (1 + (self.scale == EACH))
        self.decoder = Decoder(out_channels=pixels, num_classes=self.num_classes, **shared)
        if self.projected:
            self.quant_conv = _pointwise(inner)
            self.post_quant_conv = _pointwise(self.latent_channels)
        if self.bottleneck == QUANTISED:
            spread = nn.initializers.uniform(2 / self.num_codes)

            def centred(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
                return spread(key, shape, jnp.float32) - 1 / self.num_codes

            self.codebook = self.param("codebook", centred, (self.num_codes, codes))
        if self.scale == SHARED:
            self.log_variance = self.param("log_variance", nn.initializers.zeros, ())

    def __call__(
        self, x: jax.Array, label: jax.Array | None = None, *, train: bool = False
    ) -> Decoded:
        """The reconstructions of images [B, H, W, C] of classes int [B], without chance."""
        latents = self.encode(x, train=train).latents
        if self.bottleneck == QUANTISED:
            latents = self.quantise(latents).vectors
        return self.decode(latents, label, train=train)

    def encode(self, x: jax.Array, *, train: bool = False) -> Encoded:
        """What is known of the latents of images.

        Args:
          x: [B, H, W, C], in [-1, 1]; H and W divisible by 2^(levels - 1).
          train: turns dropout on; `apply` then needs rngs={"dropout": key}.

        Raises:
          ValueError: for sizes that do not divide.
        """
        h = self.encoder(x, train=train)
        if self.projected:
            h = self.quant_conv(h)
        if self.bottleneck != NORMAL:
            return Encoded(h, None)
        posterior = posteriors.of_moments(h)
        return Encoded(posterior.mean, posterior)

    def quantise(self, latents: jax.Array, **options: Any) -> Quantised:
        """The nearest codes of latents [B, h, w, C], as `quantisation.quantise`."""
        return quantisation.quantise(self.codebook, latents, **options)

    def decode(
        self, latents: jax.Array, label: jax.Array | None = None, *, train: bool = False
    ) -> Decoded:
        """Images of latents.

        Args:
          latents: [B, h, w, C]; of a codebook, codes.
          label: int [B], the class of each, where there are classes.
          train: as in `encode`.

        Raises:
          ValueError: for a label without classes, or classes without a label.
        """
        if self.projected:
            latents = self.post_quant_conv(latents)
        pixels = self.decoder(latents, label, train=train)
        if self.scale == NONE:
            return Decoded(pixels, jnp.zeros((), pixels.dtype))
        if self.scale == SHARED:
            return Decoded(pixels, self.log_variance)
        return Decoded(*posteriors.of_moments(pixels))

    def with_attention(self, implementation: str) -> "Autoencoder":
        """The same network with an implementation of `attention.attend`."""
        return self.clone(attention=implementation)

    def with_kernel_gradient(self, form: str) -> "Autoencoder":
        """The same network with a form of `convolution.convolution`."""
        return self.clone(kernel_gradient=form)


def _pointwise(features: int) -> nn.Dense:
    return nn.Dense(features, kernel_init=initializer())

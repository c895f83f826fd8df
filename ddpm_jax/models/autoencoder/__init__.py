"""Autoencoders: images to latents and back."""

from ddpm_jax.models.autoencoder.bottleneck import NORMAL, PLAIN, QUANTISED, Autoencoder, Encoded
from ddpm_jax.models.autoencoder.convolutional import Decoder, Encoder

__all__ = ["NORMAL", "PLAIN", "QUANTISED", "Autoencoder", "Decoder", "Encoded", "Encoder"]

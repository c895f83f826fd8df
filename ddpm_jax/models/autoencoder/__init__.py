"""Autoencoders: images to latents and back."""

from ddpm_jax.models.autoencoder.bottleneck import (
    NORMAL,
    PLAIN,
    QUANTISED,
    SCALES,
    Autoencoder,
    Decoded,
    Encoded,
)
from ddpm_jax.models.autoencoder.convolutional import Decoder, Encoder

__all__ = [
    "NORMAL",
    "PLAIN",
    "QUANTISED",
    "SCALES",
    "Autoencoder",
    "Decoded",
    "Decoder",
    "Encoded",
    "Encoder",
]

"""Codecs: between 8-bit images and the space that a diffusion runs in."""

from ddpm_jax.codecs.base import Codec
from ddpm_jax.codecs.pixels import pixels

__all__ = ["Codec", "pixels"]

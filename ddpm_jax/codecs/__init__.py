"""Codecs: between 8-bit images and the space that a model runs in."""

from ddpm_jax.codecs.base import Codec
from ddpm_jax.codecs.latents import latents
from ddpm_jax.codecs.pixels import pixels
from ddpm_jax.codecs.quantised import quantised
from ddpm_jax.codecs.scaling import to_float

__all__ = ["Codec", "latents", "pixels", "quantised", "to_float"]

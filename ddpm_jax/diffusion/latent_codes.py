"""Latents as a diffusion has them: drawn from their law, and of about unit variance."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Moments(NamedTuple):
    """A normal law of each latent.

    Attributes:
      mean, std: [B, h, w, C] each; a std of 0 for latents without chance.
    """

    mean: jax.Array
    std: jax.Array


class Scaling(NamedTuple):
    """What makes of latents z what a diffusion runs on: scale (z - shift).

    Source: Rombach et al. 2022, appendix G; with a shift, Esser et al. 2024 (Stable Diffusion 3).
    """

    scale: Any
    shift: Any


def scaled(moments: Moments, scaling: Any) -> Moments:
    """The law of scale (z - shift).

    Args:
      moments: of z.
      scaling: {"scale": scalar, "shift": scalar}.
    """
    scale, shift = scaling["scale"], scaling["shift"]
    return Moments(scale * (moments.mean - shift), scale * moments.std)


def unscaled(latents: jax.Array, scaling: Any) -> jax.Array:
    """z of scale (z - shift); scaling as of `scaled`."""
    return latents / scaling["scale"] + scaling["shift"]


def draw(moments: Moments, eps: jax.Array) -> jax.Array:
    """Latents of their law, from eps of N(0, I)."""
    return moments.mean + moments.std * eps


def joined(moments: Moments) -> jax.Array:
    """Mean and std as one array, [..., 2 C]."""
    return jnp.concatenate(moments, axis=-1)


def split(array: Any) -> Moments:
    """The moments of what `joined` made."""
    channels = array.shape[-1] // 2
    return Moments(array[..., :channels], array[..., channels:])


def deviation(array: np.ndarray) -> np.float32:
    """The deviation of all numbers of latents that are drawn of such moments, as one population.

    Args:
      array: what `joined` made, [N, ..., 2 C].
    """
    mean, std = (np.asarray(one, np.float64) for one in split(array))
    return np.float32(np.sqrt(mean.var() + (std**2).mean()))

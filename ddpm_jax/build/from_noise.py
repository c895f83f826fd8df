"""What makes an image of noise in one pass: a generator, the decoder of a VAE."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class FromNoise(NamedTuple):
    """A pass of a network.

    Attributes:
      shape: of the noise of one image.
      images: (params, z [B, *shape] of N(0, 1), labels int [B]) -> x_0 [B, ...].
    """

    shape: tuple[int, ...]
    images: Callable[[Any, jax.Array, jax.Array], jax.Array]

"""What every codec is."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Codec(NamedTuple):
    """Between 8-bit images and the space that a diffusion runs in, on the host.

    Attributes:
      encode: images uint8 [..., H, W, C] -> x_0, float32 [..., *shape].
      decode: x_0 [..., *shape] -> images uint8 [..., H, W, C]; what lies outside is clipped.
      shape: of one x_0.
    """

    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int, ...]

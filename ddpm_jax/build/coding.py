"""Between images and what a kind of run models of them: its codec."""

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import codecs
from ddpm_jax.build.datasets import dataset
from ddpm_jax.codecs import Codec
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.own_code import Own
from ddpm_jax.errors import UserError


def scaled(c: ConfigDict, own: Own) -> Codec:
    """Pixels in [-1, 1]. Raises UserError for an invalid size."""
    return codecs.pixels(image_shape(c))


def quantised(c: ConfigDict, own: Own) -> Codec:
    """Pixels as whole numbers, of the values that the data take. Raises as `scaled`."""
    return codecs.quantised(image_shape(c), dataset(c, own).info.num_values)


def encoded(codec: Codec, shape: tuple[int, int, int], images: np.ndarray) -> np.ndarray:
    """Images as a network sees them, x_0 [N, ...].

    Args:
      codec: the run's.
      shape: (H, W, C) of its images.
      images: uint8 [N, H, W, C], 0 to 255, as samples are drawn.

    Raises:
      UserError: for images of another size or type.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise UserError(
            f"need uint8 images [N, {', '.join(map(str, shape))}], got {images.dtype} "
            f"{list(images.shape)}"
        )
    return codec.encode(images)

"""Between images and what a kind of run models of them: its codec."""

from ml_collections import ConfigDict

from ddpm_jax import codecs
from ddpm_jax.build.datasets import dataset
from ddpm_jax.codecs import Codec
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.own_code import Own


def scaled(c: ConfigDict, own: Own) -> Codec:
    """Pixels in [-1, 1]. Raises UserError for an invalid size."""
    return codecs.pixels(image_shape(c))


def quantised(c: ConfigDict, own: Own) -> Codec:
    """Pixels as whole numbers, of the values that the data take. Raises as `scaled`."""
    return codecs.quantised(image_shape(c), dataset(c, own).info.num_values)

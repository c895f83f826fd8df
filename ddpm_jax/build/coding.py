"""Between images and what a kind of run models of them: its codec."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import codecs
from ddpm_jax.build import conditioning, upsampling
from ddpm_jax.build.datasets import dataset
from ddpm_jax.codecs import Codec
from ddpm_jax.config.checks import image_shape, x0_shape
from ddpm_jax.config.own_code import Own
from ddpm_jax.errors import UserError


def scaled(c: ConfigDict, own: Own) -> Codec:
    """Pixels in [-1, 1]. Raises UserError for an invalid size."""
    return codecs.pixels(image_shape(c))


def modelled(c: ConfigDict, own: Own) -> Codec:
    """`scaled`, or of a run of latents what stands there before it has its autoencoder: nothing."""
    if not has_latents(c):
        return scaled(c, own)

    def missing(*_: Any) -> np.ndarray:
        raise UserError(
            "this experiment has no autoencoder yet: train it, or load it from its workdir"
        )

    return Codec(missing, missing, x0_shape(c))


def has_latents(c: ConfigDict) -> bool:
    """Whether a run has the latents of config.data.codec in place of pixels."""
    return bool(c.data.get("codec"))


def check_latents(c: ConfigDict, own: Own) -> None:
    """What does not go with latents is not there, and nothing of latents without a codec.

    Raises:
      UserError: naming the field.
    """
    if not has_latents(c):
        for field, usual in (("latent_shape", ()), ("cache_latents", False)):
            if c.data.get(field, usual) != usual:
                raise UserError(
                    f"config.data.{field}={c.data[field]}: it is of latents, and this run has "
                    "pixels; name an autoencoder in config.data.codec, or leave it out"
                )
        return
    named, of_images = f"the latents of config.data.codec={c.data.codec}", "this run has latents"
    if c.data.dequantise:
        raise UserError(f"config.data.dequantise=True: it is of pixels, and {of_images}; set False")
    if c.get("sample", {}).get("clip_x0"):
        raise UserError(
            f"config.sample.clip_x0=True: it bounds pixels, and {named} have no bounds; set False"
        )
    if features := tuple(c.model.fourier_features) if "fourier_features" in c.model else ():
        raise UserError(
            f"config.model.fourier_features={features}: they are of pixels, and {of_images}; set ()"
        )
    if upsampling.NAME in conditioning.images(c, own):
        raise UserError(
            f"config.model.conditions={tuple(c.model.conditions)}: {upsampling.NAME} is enlarged "
            f"to the size of pixels, and {of_images}; leave it out"
        )
    if conditioning.images(c, own):
        shrinks_by(c)
    if c.data.get("clip"):
        raise UserError(
            f"config.data.clip={c.data.clip}: a CLIP sees pixels, and {of_images}; leave one out"
        )


def shrinks_by(c: ConfigDict) -> int:
    """How many times smaller either way than images what a run models is; 1 for pixels.

    Raises:
      UserError: for latents whose sizes are no equal share of the images', beside conditions that
        are images.
    """
    (height, width, _), (h, w, _) = image_shape(c), x0_shape(c)
    factor = max(height // h, 1)
    if (factor * h, factor * w) != (height, width):
        raise UserError(
            f"config.data.latent_shape={tuple(c.data.latent_shape)}: conditions that are images of "
            f"{height}x{width} are folded to the size of latents, which does not divide them "
            "equally; leave them out"
        )
    return factor


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

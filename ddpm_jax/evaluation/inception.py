"""FID's InceptionV3 as a space of features, with the resize that comes before it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.evaluation import features
from ddpm_jax.evaluation.features import Extractor, Features
from ddpm_jax.evaluation.resize import RESIZES, resize
from ddpm_jax.models.inception import SIZE, InceptionV3

LAYERS = {"2048": "pooled", "768": "pool_768", "192": "pool_192"}
# What the network reads for a pixel x in [0, 255].
NORMALISATIONS = {"tensorflow": "(x - 128) / 128", "torch": "x / 127.5 - 1"}


def extractor(
    params: Any,
    digest: str,
    *,
    resize: str = "bicubic",
    rounding: bool = False,
    normalisation: str = "tensorflow",
    layer: str = "2048",
    levels: int = 256,
    per_device: int = features.PER_DEVICE,
) -> Extractor:
    """Features of InceptionV3 for images of any size, grey ones as three equal channels.

    Three sets of choices agree with other programs, given the same weights: the defaults with
    clean-fid; resize="bilinear_torch", normalisation="torch" with pytorch-fid;
    resize="bilinear_tensorflow" with TensorFlow's own graph, hence with Dhariwal and Nichol's
    evaluator, and with torch-fidelity.

    Args:
      params, digest: `interop.inception.inception_from_file`'s.
      resize: to 299x299: bicubic, bilinear, bilinear_torch, bilinear_tensorflow, or none.
      rounding: the resized image to 8 bits.
      normalisation: "tensorflow" or "torch".
      layer: what `Features.pooled` is: "2048", or for few samples "768" or "192".
      levels: as for `features.pixels`.
      per_device: as for `features.compiled`.

    Returns:
      An extractor, uint8 [B, H, W, C], C = 1 or 3 -> pooled [B, 2048], logits [B, 1008] without
      the last layer's bias (as in the inception score's own code), spatial [B, 2023].

    Raises:
      ValueError: for an unknown choice.
    """
    features.check_levels(levels)
    for name, value, choices in (
        ("resize", resize, (*RESIZES, "none")),
        ("normalisation", normalisation, NORMALISATIONS),
        ("layer", layer, LAYERS),
    ):
        if value not in choices:
            raise ValueError(f"{name}={value!r} is unknown: choose one of {', '.join(choices)}")

    def network(params: Any, images: jax.Array) -> tuple[jax.Array, ...]:
        x = prepared(images, resize, rounding, normalisation, levels)
        outputs: Any = InceptionV3().apply({"params": params}, x)
        return getattr(outputs, LAYERS[layer]), outputs.unbiased_logits, outputs.spatial

    run = features.compiled(network, params, per_device=per_device)

    def apply(images: np.ndarray) -> Features:
        features.check_images(images, None, levels)
        if images.shape[3] not in (1, 3):
            raise ValueError(f"images have {images.shape[3]} channels; Inception reads 1 or 3")
        if resize == "none" and images.shape[1:3] != (SIZE, SIZE):
            raise ValueError(
                f"images are {images.shape[1]}x{images.shape[2]} and resize=none needs "
                f"{SIZE}x{SIZE}: choose one of {', '.join(RESIZES)}"
            )
        return Features(*run(images))

    protocol = {
        "weights": digest,
        "layer": layer,
        "logits": "without bias",
        "resize": resize,
        "rounding": "8 bits" if rounding else "none",
        "normalisation": NORMALISATIONS[normalisation],
        "grey": "repeated to 3 channels",
        "levels": levels,
    }
    return Extractor("inception", protocol, apply)


def prepared(
    images: jax.Array, name: str, rounding: bool, normalisation: str, levels: int
) -> jax.Array:
    """What the network reads. uint8 [B, H, W, 1 or 3] -> float32 [B, 299, 299, 3]."""
    x = images.astype(jnp.float32) * (255 / (levels - 1))
    x = resize(x, (SIZE, SIZE), name, rounding=rounding)
    x = (x - 128) / 128 if normalisation == "tensorflow" else x / 127.5 - 1
    return jnp.broadcast_to(x, (*x.shape[:3], 3))

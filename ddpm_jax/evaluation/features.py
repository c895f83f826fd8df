"""What turns images into features that measures compare, and what names it in a result.

extractor = pixels(source.info.image_shape, levels=source.info.levels)
extractor.apply(images).pooled          # float32 [N, D]
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blake3 import blake3
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ddpm_jax.evaluation import feature_files

PER_DEVICE = 32  # images at a time
_CHUNK = 4096  # images converted to float64 at a time


class Features(NamedTuple):
    """What is known of N images.

    Attributes:
      pooled: float32 [N, D].
      logits: float32 [N, K] of classes, for the inception score; None without classes.
      spatial: float32 [N, S], for sFID; None where the extractor has none.
    """

    pooled: np.ndarray
    logits: np.ndarray | None = None
    spatial: np.ndarray | None = None


class Extractor(NamedTuple):
    """A function from images to features, and its name in a result.

    Attributes:
      name: "inception", "classifier", "pca", "pixels".
      protocol: JSON that names it: digest of the weights, resize, rounding, levels. Extractors of
        equal name and protocol give equal features.
      apply: uint8 [B, H, W, C] -> Features, for any B; ValueError for other images.
    """

    name: str
    protocol: dict[str, Any]
    apply: Callable[[np.ndarray], Features]


class Exported(NamedTuple):
    """Features that another program wrote to a file.

    Attributes:
      features: of N images.
      protocol: as an `Extractor`'s: what the file says of its extractor, and the dimensions.
      digest: BLAKE3 of the file.
    """

    features: Features
    protocol: dict[str, Any]
    digest: str


def pixels(image_shape: tuple[int, int, int], *, levels: int = 256) -> Extractor:
    """The pixels themselves, from 0 to 1. uint8 [B, H, W, C] -> float32 [B, H W C].

    Args:
      image_shape: (H, W, C).
      levels: the number of values that a pixel takes, `DataInfo.levels`.

    Raises:
      ValueError: for another number of levels than 2 to 256.
    """
    check_levels(levels)

    def apply(images: np.ndarray) -> Features:
        check_images(images, image_shape, levels)
        return Features((_flat(images) / (levels - 1)).astype(np.float32))

    return Extractor("pixels", {"image_shape": list(image_shape), "levels": levels}, apply)


def pca(
    reference_images: np.ndarray,
    num_components: int,
    *,
    levels: int = 256,
    or_fewer: bool = False,
) -> Extractor:
    """The principal components of the pixels (from 0 to 1), not whitened, largest first.

    Fitted in float64. The sign of a component is such that its largest entry is positive.

    Args:
      reference_images: what it is fitted to, uint8 [N, H, W, C].
      num_components: K, at most the number of directions in which the images vary.
      levels: as in `pixels`.
      or_fewer: take as many as there are directions, where those are fewer than K.

    Returns:
      An extractor, uint8 [B, H, W, C] -> float32 [B, K].

    Raises:
      ValueError: for other images, or more components than there are directions.

    Source: Jolliffe 2002, "Principal Component Analysis", section 1.1.
    """
    check_levels(levels)
    check_images(reference_images, None, levels)
    shape = reference_images.shape[1:]
    mean, components = _principal(reference_images, num_components, or_fewer)
    num_components = components.shape[1]

    def apply(images: np.ndarray) -> Features:
        check_images(images, shape, levels)
        return Features(((_flat(images) - mean) @ components / (levels - 1)).astype(np.float32))

    # Of the images, not of the components: those may differ in the last bit by machine.
    fitted = blake3(np.ascontiguousarray(reference_images).reshape(-1).data).hexdigest()
    protocol = {
        "num_components": num_components,
        "fitted_to": fitted,
        "image_shape": list(shape),
        "levels": levels,
    }
    return Extractor("pca", protocol, apply)


def from_file(path: str | os.PathLike[str]) -> Exported:
    """Features that another program exported: a .npz or .safetensors file.

    It holds "features" [N, D] and perhaps "logits" [N, K] and "spatial" [N, S], as floats. What
    made them is named by a text "extractor": metadata of a safetensors file, an array of a .npz.
    Nothing is unpickled.

    Raises:
      ValueError: for a file of another kind, broken or missing, arrays that do not belong together,
        or values that are not finite (with the first row that has one).
    """
    path = Path(path)
    arrays, extractor, digest = feature_files.read(path)
    if "features" not in arrays:
        held = ", ".join(sorted(arrays)) or "nothing"
        raise ValueError(f'{path} has no array "features" [N, D]; it holds {held}')
    parts = {name: arrays.get(name) for name in ("features", "logits", "spatial")}
    number = len(arrays["features"]) if arrays["features"].ndim else 0
    for name, array in parts.items():
        if array is None:
            continue
        if array.ndim != 2 or len(array) != number or not array.size:
            raise ValueError(
                f'{path}: "{name}" has shape {array.shape}; need a row for each image, '
                f"{'[N, D]' if name == 'features' else f'[{number}, D]'}"
            )
        with np.errstate(over="ignore"):  # an infinity, which is refused in the next line
            parts[name] = array = array.astype(np.float32)
        check_finite(array, f'{path}: "{name}"', "export it again")
    pooled = parts["features"]
    assert pooled is not None  # for the type checker: it is there
    features = Features(pooled, parts["logits"], parts["spatial"])
    protocol = {
        "extractor": extractor,
        **{n: None if a is None else a.shape[1] for n, a in parts.items()},
    }
    return Exported(features, protocol, digest)


def compiled(
    network: Callable[[Any, jax.Array], tuple[jax.Array | None, ...]],
    params: Any,
    *,
    per_device: int = PER_DEVICE,
) -> Callable[[np.ndarray], list[Any]]:
    """`network(params, images)` over any number of images, split over all devices of this process.

    Each device always takes the same number of images, the last ones padded. So there is one
    program for each image size, and neither the number of devices nor how many images come in one
    call changes how anything is rounded.

    Args:
      network: (params, uint8 [B, H, W, C]) -> a tuple of arrays [B, D] or None, such as Features,
        each image by itself.
      params: copied to every device of this process, once.
      per_device: images that a device takes at a time.

    Returns:
      uint8 [N, H, W, C] -> the network's arrays, [N, D]; ValueError, with the number of the image,
      for values that are not finite.
    """
    devices = jax.local_devices()
    size = per_device * len(devices)
    mesh = jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    # Not by `compiling.jit`: what cores share is added up in an order that hangs on the batch.
    run = jax.jit(network, out_shardings=rows)

    def apply(images: np.ndarray) -> list[Any]:
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            padding = [(0, size - len(batch)), *[(0, 0)] * (images.ndim - 1)]
            outputs = run(params, jax.device_put(np.pad(batch, padding), rows))
            parts.append([None if x is None else np.asarray(x)[: len(batch)] for x in outputs])
        joined = [None if p[0] is None else np.concatenate(p) for p in zip(*parts, strict=True)]
        for array in joined:
            if array is not None:
                check_finite(array, "the features", "look at that image and at the weights")
        return joined

    return apply


def scaled(images: jax.Array, levels: int) -> jax.Array:
    """Pixels 0 .. levels - 1 as float32 in [-1, 1]."""
    return images.astype(jnp.float32) * (2 / (levels - 1)) - 1


def check_levels(levels: int) -> None:
    """Raises ValueError unless 2 <= levels <= 256."""
    if not 2 <= levels <= 256:
        raise ValueError(f"need 2 <= levels <= 256, got {levels=}")


def check_images(
    images: np.ndarray, image_shape: tuple[int, ...] | None, levels: int = 256
) -> None:
    """Raises ValueError unless they are uint8 [N, H, W, C], N >= 1, of this shape and range."""
    if images.dtype != np.uint8:
        raise ValueError(
            f"images are {images.dtype}; need uint8 from 0 to {levels - 1}: scale, round and clip"
        )
    if images.ndim != 4 or not images.size:
        raise ValueError(f"images have shape {images.shape}; need [N, H, W, C], N at least 1")
    if image_shape is not None and images.shape[1:] != tuple(image_shape):
        raise ValueError(
            f"images are (H, W, C) = {images.shape[1:]}, the extractor's are {tuple(image_shape)}: "
            "resize them, or take the extractor of their own data"
        )
    if levels < 256 and (top := int(images.max())) >= levels:
        raise ValueError(
            f"a pixel is {top}, and the extractor's go from 0 to {levels - 1}: scale the images "
            "to these levels"
        )


def check_finite(array: np.ndarray, what: str, remedy: str) -> None:
    """Raises ValueError at the first row of [N, D] that has a NaN or an infinity."""
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{what} of row {int(bad.argmax())} are not finite ({int(bad.sum())} such rows of "
            f"{len(array)}): {remedy}"
        )


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)


def _principal(
    images: np.ndarray, num_components: int, or_fewer: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and components [D, K] of pixels, in float64."""
    number, size = len(images), int(np.prod(images.shape[1:]))
    chunks = range(0, number, _CHUNK)
    mean = sum(_flat(images[k : k + _CHUNK]).sum(axis=0) for k in chunks) / number
    if number < size:
        _, singular, axes = np.linalg.svd(_flat(images) - mean, full_matrices=False)
        variances, axes = singular**2, axes.T
    else:
        products = np.zeros((size, size))
        for k in chunks:
            centred = _flat(images[k : k + _CHUNK]) - mean
            products += centred.T @ centred
        variances, axes = np.linalg.eigh(products)
        variances, axes = variances[::-1], axes[:, ::-1]
    # Below this a direction is rounding: its features would be noise.
    directions = int((variances > 1e-12 * variances[0]).sum()) if variances[0] > 0 else 0
    if or_fewer:
        num_components = min(num_components, directions)
    if not 1 <= num_components <= directions:
        raise ValueError(
            f"num_components={num_components}: {number} images of {size} values vary in "
            f"{directions} directions; need 1 to {directions}"
        )
    axes = axes[:, :num_components]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    return mean, axes * np.sign(largest)

"""LPIPS: how different two images look, by the features of a network that was trained to see."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Conv(NamedTuple):
    """A convolution and a ReLU; `number` is its place in torchvision's `features`."""

    number: int
    features: int
    size: int = 3
    stride: int = 1
    padding: int = 1


class Pool(NamedTuple):
    """The largest of each window."""

    size: int
    stride: int = 2


# Stages of each trunk; what stands at the end of each is compared.
Stage = tuple[Conv | Pool, ...]
TRUNKS: dict[str, tuple[Stage, ...]] = {
    "vgg": (
        (Conv(0, 64), Conv(2, 64)),
        (Pool(2), Conv(5, 128), Conv(7, 128)),
        (Pool(2), Conv(10, 256), Conv(12, 256), Conv(14, 256)),
        (Pool(2), Conv(17, 512), Conv(19, 512), Conv(21, 512)),
        (Pool(2), Conv(24, 512), Conv(26, 512), Conv(28, 512)),
    ),
    "alex": (
        (Conv(0, 64, 11, 4, 2),),
        (Pool(3), Conv(3, 192, 5, 1, 2)),
        (Pool(3), Conv(6, 384)),
        (Conv(8, 256),),
        (Conv(10, 256),),
    ),
}
# The mean and deviation that the trunks were trained with, of pixels in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10  # beside the length of a feature


def shapes(net: str) -> dict[str, Any]:
    """The shapes of the parameters of a trunk and of the weights of its features.

    Args:
      net: a key of TRUNKS.
    """
    trunk: dict[str, Any] = {}
    weights, channels = {}, 3
    for k, stage in enumerate(TRUNKS[net]):
        for layer in stage:
            if isinstance(layer, Conv):
                kernel = (layer.size, layer.size, channels, layer.features)
                trunk[str(layer.number)] = {"kernel": kernel, "bias": (layer.features,)}
                channels = layer.features
        weights[str(k)] = (channels,)
    return {"trunk": trunk, "weights": weights}


def lpips(params: Mapping[str, Any], x: jax.Array, y: jax.Array) -> jax.Array:
    """How different images look, [B].

    The features of either are made of unit length at each place; their squared differences are
    weighted, summed over channels, averaged over places and added up over stages.

    Args:
      params: as of `shapes`; which trunk it is, they say.
      x, y: images in [-1, 1], [B, H, W, 1 or 3] each.

    Raises:
      ValueError: for images that are too small for the trunk.

    Source: Zhang et al. 2018, equation 1; version 0.1 of their code.
    """
    weights = [params["weights"][str(k)] for k in range(len(params["weights"]))]
    return _apart(functools.partial(_stages, params), x, y, weights)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassifierFeatures:
    """A classifier of noised images as what sees images without noise; a tree of its parameters.

    Attributes:
      params: the classifier's.
      network: it, a `Classifier`; no leaf of the tree.
      time: of no noise, in the units of its network; likewise.
    """

    params: Any
    network: Any = dataclasses.field(metadata={"static": True})
    time: float = dataclasses.field(metadata={"static": True})

    def stages(self, images: jax.Array) -> list[jax.Array]:
        """The features of each level, [B, h, w, C]. Raises ValueError for sizes that do not fit."""
        time = jnp.full(len(images), self.time, images.dtype)
        features: list[jax.Array] = self.network.apply(
            {"params": self.params}, images, time, method="features"
        )
        return features


def distance(looks: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """How different images look, [B]: `lpips`, or the same of a classifier, whose weights are 1.

    Args:
      looks: the parameters of `lpips`, or `ClassifierFeatures`.
      x, y: images in [-1, 1], [B, H, W, C] each.

    Raises:
      ValueError: for images that do not fit.
    """
    if isinstance(looks, ClassifierFeatures):
        return _apart(looks.stages, x, y, None)
    return lpips(looks, x, y)


def _apart(
    stages: Callable[[jax.Array], Sequence[jax.Array]],
    x: jax.Array,
    y: jax.Array,
    weights: Sequence[jax.Array] | None,
) -> jax.Array:
    """The distance of unit features, weighted by channel or by 1, added up over stages, [B]."""
    total = jnp.zeros(len(x), x.dtype)
    for k, (one, other) in enumerate(zip(stages(x), stages(y), strict=True)):
        apart = (_unit(one) - _unit(other)) ** 2
        weighted = apart if weights is None else weights[k][None, None, None] * apart
        total += weighted.sum(axis=-1).mean(axis=(1, 2))
    return total


def net_of(params: Mapping[str, Any]) -> str:
    """Which trunk parameters are of, a key of TRUNKS."""
    return next(net for net in TRUNKS if {*shapes(net)["trunk"]} == {*params["trunk"]})


def _stages(params: Mapping[str, Any], images: jax.Array) -> list[jax.Array]:
    """The features at the end of each stage, [B, h, w, C]."""
    h = jnp.broadcast_to(images, (*images.shape[:3], 3))
    shift, scale = (jnp.asarray(one, h.dtype)[None, None, None] for one in (SHIFT, SCALE))
    h = (h - shift) / scale
    features = []
    for stage in TRUNKS[net_of(params)]:
        for layer in stage:
            if isinstance(layer, Pool):
                h = _pooled(h, layer)
            else:
                h = _convolved(h, layer, params["trunk"][str(layer.number)])
            if not all(h.shape[1:3]):
                raise ValueError(
                    f"images of {images.shape[1]}x{images.shape[2]} are too small for the trunk "
                    f"{net_of(params)}"
                )
        features.append(h)
    return features


def _convolved(h: jax.Array, layer: Conv, params: Mapping[str, jax.Array]) -> jax.Array:
    convolve = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(layer.stride, layer.stride),
        padding=[(layer.padding, layer.padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.nn.relu(convolve(h, params["kernel"]) + params["bias"][None, None, None])


def _pooled(h: jax.Array, layer: Pool) -> jax.Array:
    window = (1, layer.size, layer.size, 1)
    strides = (1, layer.stride, layer.stride, 1)
    return jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, window, strides, "VALID")


def _unit(features: jax.Array) -> jax.Array:
    """Features of unit length; where all are zero, zeros, and no gradient."""
    squares = (features**2).sum(axis=-1, keepdims=True)
    seen = squares > 0
    length = jnp.where(seen, jnp.sqrt(jnp.where(seen, squares, 1)), 0)
    return features / (length + EPSILON)

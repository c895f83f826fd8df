"""The attention that gradients are taken through: cuDNN's, on devices that have it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.models.attention import CUDNN


def with_fast_attention(network: Any, device: jax.Device) -> Any:
    """The network as a gradient may run it: with cuDNN's attention, on GPUs that have it.

    That has no forward-mode derivative, which likelihoods take: they keep the network as it is.
    One of the user's own has the choice if it has `with_attention`, as the built-in ones.
    """
    if not hasattr(network, "with_attention") or not has_cudnn_attention(device):
        return network
    return network.with_attention(CUDNN)


def has_cudnn_attention(device: jax.Device) -> bool:
    """Whether jax has cuDNN's attention for a device."""
    try:
        capability = tuple(map(int, str(getattr(device, "compute_capability", "")).split(".")))
    except ValueError:  # no GPU, or one of AMD's, which have names
        return False
    if device.platform != "gpu" or capability < (8, 0):
        return False
    shape = jax.ShapeDtypeStruct((1, 64, 1, 64), jnp.bfloat16)
    attention = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    try:
        jax.eval_shape(attention, shape, shape, shape)
    except RuntimeError:  # cuDNN is not there, or too old for this GPU
        return False
    return True

"""What a network computes where its gradients are taken backwards, and faster than elsewhere.

None of it has a forward-mode derivative, which likelihoods take: they keep the network as it is.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.models.attention import CUDNN
from ddpm_jax.models.convolution import ROWS


def in_reverse_mode(network: Any, device: jax.Device) -> Any:
    """The network as a gradient may run it: cuDNN's attention on GPUs, kernels by rows on CPUs.

    One of the user's own has the choices if it has `with_attention` and `with_kernel_gradient`, as
    the built-in ones.
    """
    if hasattr(network, "with_attention") and has_cudnn_attention(device):
        network = network.with_attention(CUDNN)
    if hasattr(network, "with_kernel_gradient") and device.platform == "cpu":
        network = network.with_kernel_gradient(ROWS)
    return network


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

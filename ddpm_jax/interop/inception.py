"""The weights of FID's InceptionV3, from the torch checkpoint as a safetensors file."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blake3 import blake3

from ddpm_jax.models.inception import SIZE, InceptionV3
from ddpm_jax.runtime import weight_files

CHECKPOINT = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{CHECKPOINT}"
# Its restricted reader executes nothing that the file holds.
CONVERT = (
    'python -c "import torch, safetensors.torch as s; '
    f"w = torch.load('{CHECKPOINT}', weights_only=True); "
    "s.save_file({k: v.contiguous() for k, v in w.items() if v.is_floating_point()}, "
    "'inception.safetensors')\""
)
HOW_TO_GET = (
    f"download {URL} (its sha256 begins with {CHECKPOINT.removesuffix('.pth')[-8:]}) and, where "
    f"torch is installed, run {CONVERT}"
)
EPSILON = 1e-3  # of the batch norms


class Weights(NamedTuple):
    """What the file holds.

    Attributes:
      params: of `InceptionV3`.
      digest: BLAKE3 of the tensors' names, shapes and values, whatever their order in the file.
    """

    params: dict[str, Any]
    digest: str


def inception_from_file(path: str | os.PathLike[str]) -> Weights:
    """The weights of a safetensors file made of pytorch-fid's checkpoint by the command CONVERT.

    Each batch norm becomes part of its convolution, in float64.

    Raises:
      ValueError: for a missing or broken file, a pickle, and tensors that are missing, left over
        or of another shape, naming the first of them.
    """
    path = Path(path)
    if path.suffix in weight_files.PICKLES:
        raise weight_files.pickle_error(path, CONVERT)
    if not path.is_file():
        raise ValueError(f"no file {path} of Inception weights; {HOW_TO_GET}")
    tensors = dict(weight_files.read_tensors(path, CONVERT))
    digest = blake3()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.shape} {tensor.dtype}\n".encode() + tensor.tobytes())
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    shapes = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)["params"]
    params: dict[str, Any] = {}
    for name, leaves in shapes.items():
        if name == "fc":
            rows = leaves["kernel"].shape[::-1]
            params[name] = {"kernel": _take(tensors, path, "fc.weight", rows).T}
        elif name == "fc_bias":
            params[name] = _take(tensors, path, "fc.bias", leaves.shape)
        else:
            params[name] = _folded(tensors, path, name, leaves["kernel"].shape)
    if tensors:
        raise ValueError(
            f"{path}: FID's InceptionV3 has no tensor {min(tensors)} ({len(tensors)} left over): "
            f"it belongs to another network; need {CHECKPOINT}"
        )
    return Weights(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params), digest.hexdigest())


def _folded(
    tensors: dict[str, np.ndarray], path: Path, name: str, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """A convolution and the batch norm behind it, as one convolution with a bias, in float64."""
    height, width, inputs, outputs = shape
    kernel = _take(tensors, path, f"{name}.conv.weight", (outputs, inputs, height, width))
    weight, bias, mean, variance = (
        _take(tensors, path, f"{name}.bn.{part}", (outputs,))
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    slope = weight / np.sqrt(variance + EPSILON)
    return {"kernel": kernel.transpose(2, 3, 1, 0) * slope, "bias": bias - mean * slope}


def _take(
    tensors: dict[str, np.ndarray], path: Path, name: str, shape: tuple[int, ...]
) -> np.ndarray:
    if name not in tensors:
        raise ValueError(f"{path}: tensor {name} is missing; need the tensors of {CHECKPOINT}")
    tensor = tensors.pop(name)
    if tensor.shape != shape:
        raise ValueError(f"{path}: tensor {name} has shape {tensor.shape}; FID's has {shape}")
    return tensor.astype(np.float64)

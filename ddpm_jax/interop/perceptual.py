"""The weights of LPIPS, from the package's own state as a safetensors file."""

import os
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddpm_jax.models import perceptual
from ddpm_jax.runtime import weight_files

# Where torch, torchvision and lpips are installed; they fetch the trunk.
CONVERT = (
    'python -c "import lpips, safetensors.torch as s; '
    "w = lpips.LPIPS(net='vgg').state_dict(); "
    "s.save_file({k: v.clone() for k, v in w.items()}, 'lpips.safetensors')\""
)
# A convolution, by lpips and by torchvision; the weight of a stage's features.
_CONV = re.compile(r"(?:net\.slice\d+|features)\.(\d+)\.(weight|bias)")
_LIN = re.compile(r"lin(\d+)\.model\.\d+\.weight")
# What both have besides: the same weights again, and constants.
_KNOWN = re.compile(r"lins\.\d+\.model\.\d+\.weight|scaling_layer\.(shift|scale)|classifier\..*")


def perceptual_from_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The parameters of `models.perceptual.lpips`, of the trunk VGG16 or AlexNet.

    Args:
      path: a safetensors file of `lpips.LPIPS(net=...)`'s state, as CONVERT writes it.

    Raises:
      ValueError: for a missing or broken file, a pickle, and tensors that are missing, left over
        or of another shape.
    """
    path = Path(path)
    if path.suffix in weight_files.PICKLES:
        raise weight_files.pickle_error(path, CONVERT)
    if not path.is_file():
        raise ValueError(
            f"no file {path} of LPIPS weights; where lpips is installed, run {CONVERT}"
        )
    trunk: dict[str, dict[str, np.ndarray]] = {}
    weights: dict[str, np.ndarray] = {}
    for name, tensor in weight_files.read_tensors(path, CONVERT):
        if found := _CONV.fullmatch(name):
            number, part = found.groups()
            is_kernel = part == "weight"
            own = tensor.transpose(2, 3, 1, 0) if is_kernel and tensor.ndim == 4 else tensor
            trunk.setdefault(number, {})["kernel" if is_kernel else "bias"] = own
        elif found := _LIN.fullmatch(name):
            weights[found[1]] = tensor.reshape(-1)
        elif not _KNOWN.fullmatch(name):
            raise ValueError(f"{path}: LPIPS has no tensor {name}; need what {CONVERT} writes")
    return _checked(path, {"trunk": trunk, "weights": weights})


def _checked(path: Path, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters in float32, of one of the trunks. Raises ValueError for others."""
    nets = [
        net for net in perceptual.TRUNKS if {*perceptual.shapes(net)["trunk"]} == {*params["trunk"]}
    ]
    if not nets:
        found = ", ".join(sorted(params["trunk"], key=int)) or "none"
        raise ValueError(
            f"{path}: its convolutions are {found}; "
            f"need those of {' or '.join(perceptual.TRUNKS)}, as {CONVERT} writes them"
        )
    want = perceptual.shapes(nets[0])
    for group, named in want.items():
        for name, shape in named.items():
            own = params[group].get(name)
            is_conv = isinstance(own, dict)
            has = {part: one.shape for part, one in own.items()} if is_conv else np.shape(own)
            if own is None or has != shape:
                raise ValueError(
                    f"{path}: {group} {name} of {nets[0]} has the shape {has}; need {shape}"
                )
    if extra := {*params["weights"]} - {*want["weights"]}:
        raise ValueError(f"{path}: it has weights of a stage {min(extra)}, and {nets[0]} has 5")

    def floats(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {name: floats(one) for name, one in tree.items()}
        return jnp.asarray(tree, jnp.float32)

    made: dict[str, Any] = floats(params)
    return made

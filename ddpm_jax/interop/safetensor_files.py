"""The weights of a diffusers model, in the folder that save_pretrained wrote."""

from pathlib import Path

import numpy as np

from ddpm_jax.interop.unet2d_config import CONFIG, read_json
from ddpm_jax.runtime.weight_files import PICKLES, pickle_error, read_tensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
SAVE_AGAIN = "unet.save_pretrained(directory, safe_serialization=True)"

# What diffusers called them in its first releases.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def check_directory(directory: Path, network: str) -> None:
    """Raises ValueError unless save_pretrained wrote it; in a pipeline's, `network` is the part."""
    if directory.suffix in PICKLES and not directory.is_dir():
        raise pickle_error(directory, SAVE_AGAIN)
    if directory.is_file():
        raise ValueError(f"{directory} is a file; give the directory that save_pretrained wrote")
    if not directory.is_dir():
        raise ValueError(
            f"no directory {directory}; give one that save_pretrained wrote on this machine "
            "(nothing is downloaded)"
        )
    if not (directory / CONFIG).is_file():
        if (directory / "model_index.json").is_file():
            raise ValueError(
                f"{directory} holds a pipeline; give its network: {directory / network}"
            )
        raise ValueError(f"{directory} has no {CONFIG}; give what save_pretrained wrote")


def read(directory: Path) -> dict[str, np.ndarray]:
    """Every tensor by its present name, in the file's own float type."""
    if (directory / INDEX).is_file():  # diffusers too takes the shards where both are there
        shards = read_json(directory / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(v, str) for v in shards.values()):
            raise ValueError(f"{directory / INDEX} has no weight_map of file names")
        files = sorted(set(shards.values()))
    else:
        files = [WEIGHTS]
    weights: dict[str, np.ndarray] = {}
    for file in files:
        path = directory / file
        if Path(file).name != file:
            raise ValueError(f"{directory / INDEX} names {file}, outside the directory")
        if path.suffix != ".safetensors":
            raise pickle_error(path, SAVE_AGAIN)
        if not path.is_file():
            raise _no_weights(directory, file)
        for name, tensor in read_tensors(path, SAVE_AGAIN):
            if ".attentions." in name:
                for old, new in _OLD_NAMES.items():
                    name = name.replace(f".{old}.", f".{new}.")
            if name in weights:
                raise ValueError(f"{directory}: tensor {name} occurs twice")
            weights[name] = tensor
    return weights


def _no_weights(directory: Path, file: str) -> ValueError:
    names = sorted(path.name for path in directory.iterdir())
    if not any(name.endswith(".safetensors") for name in names):
        for name in names:
            if name.endswith(PICKLES):
                return pickle_error(directory / name, SAVE_AGAIN)
    return ValueError(f"{directory} has no {file}; it holds {', '.join(names)}")

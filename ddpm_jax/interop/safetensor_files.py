"""The weights of a diffusers or transformers model, in the folder that save_pretrained wrote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from ddpm_jax.interop.unet2d_config import CONFIG, read_json
from ddpm_jax.runtime import files
from ddpm_jax.runtime.weight_files import PICKLES, StoredTensor, pickle_error, stored_tensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
# The same in transformers.
MODEL_WEIGHTS = "model.safetensors"
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


def read(
    directory: Path,
    file: str = WEIGHTS,
    leave_out: Callable[[str], bool] = lambda name: False,
    variant: str | None = None,
) -> dict[str, StoredTensor]:
    """Every tensor by its present name; `np.asarray` reads one, in the file's own float type.

    Args:
      directory: as save_pretrained wrote it.
      file: of the weights, WEIGHTS or MODEL_WEIGHTS; its shards, where an index of them is there.
      leave_out: names of tensors that are no weights, of whatever type.
      variant: of the file, as save_pretrained(variant="fp16") names it; None for the one without.

    Raises:
      OSError: for what cannot be read.
      ValueError: for missing or broken files, and pickles.
    """
    infix = "" if variant is None else f".{variant}"
    index = directory / f"{file}.index{infix}.json"
    file = file.replace(".safetensors", f"{infix}.safetensors")
    if index.is_file():  # diffusers too takes the shards where both are there
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(v, str) for v in shards.values()):
            raise ValueError(f"{index} has no weight_map of file names")
        names = sorted(set(shards.values()))
    else:
        names = [file]
    weights: dict[str, StoredTensor] = {}
    for file in names:
        path = directory / file
        if Path(file).name != file:
            raise ValueError(f"{index} names {file}, outside the directory")
        if path.suffix != ".safetensors":
            raise pickle_error(path, SAVE_AGAIN)
        if not path.is_file():
            raise _no_weights(directory, file)
        for name, tensor in stored_tensors(path, SAVE_AGAIN, leave_out).items():
            if ".attentions." in name:
                for old, new in _OLD_NAMES.items():
                    name = name.replace(f".{old}.", f".{new}.")
            if name in weights:
                raise ValueError(f"{directory}: tensor {name} occurs twice")
            weights[name] = tensor
    return weights


def check_target(directory: Path, name: str) -> None:
    """Refuses a directory whose files an export would destroy or be hidden by.

    Args:
      directory: where a network is to be written.
      name: of its class in diffusers.

    Raises:
      ValueError: for a file, another network's directory, or shards that would be read instead.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; give a directory")
    config, index = directory / CONFIG, directory / INDEX
    if config.exists() and read_json(config).get("_class_name") != name:
        raise ValueError(f"{config} is not diffusers' {name}'s; give another directory")
    if index.exists():
        raise ValueError(f"{index} would hide the new weights; give another directory")


def write(directory: Path, config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    """What from_pretrained of diffusers reads; the weights are there whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    with files.whole(directory / WEIGHTS) as partial:
        safetensors.numpy.save_file(weights, partial, metadata={"format": "pt"})
    files.write_json(directory / CONFIG, config)


def _no_weights(directory: Path, file: str) -> ValueError:
    names = sorted(path.name for path in directory.iterdir())
    if not any(name.endswith(".safetensors") for name in names):
        for name in names:
            if name.endswith(PICKLES):
                return pickle_error(directory / name, SAVE_AGAIN)
    return ValueError(f"{directory} has no {file}; it holds {', '.join(names)}")

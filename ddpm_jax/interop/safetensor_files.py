"""The weights of a diffusers model: safetensors read whole, pickles refused."""

import sys
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors

from ddpm_jax.interop.unet2d_config import CONFIG, read_json
from ddpm_jax.runtime.files import parse_json, read_bytes

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
HEADER_BYTES = 2**24  # a hundred thousand tensors
SAVE_AGAIN = "unet.save_pretrained(directory, safe_serialization=True)"
# How torch.save begins: a zip file; before 1.6, and from pickle itself, protocol 2 to 5.
_PICKLED = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

# What diffusers called them in its first releases.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def check_directory(directory: Path, network: str) -> None:
    """Raises ValueError unless save_pretrained wrote it; in a pipeline's, `network` is the part."""
    if directory.suffix in PICKLES and not directory.is_dir():
        raise pickle_error(directory)
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
            raise pickle_error(path)
        if not path.is_file():
            raise _no_weights(directory, file)
        for name, tensor in read_tensors(path):
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
                return pickle_error(directory / name)
    return ValueError(f"{directory} has no {file}; it holds {', '.join(names)}")


def read_tensors(path: Path, remedy: str = SAVE_AGAIN) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of one file with its name, in the file's own float type.

    Args:
      path: of the file.
      remedy: what makes such a file of a pickle, for the message.

    Raises:
      OSError: if it cannot be read.
      ValueError: for a broken file, a pickle, or tensors of another type.
    """
    # No limit but the file's own size: a header cannot ask for more than the file has.
    content = read_bytes(path, sys.maxsize)
    size = int.from_bytes(content[:8], "little")
    try:
        if size > HEADER_BYTES:
            raise ValueError(f"its header has {size:,} bytes, the limit is {HEADER_BYTES:,}")
        parse_json(content[8 : 8 + size])  # the library takes one of two of the same name
        tensors = safetensors.deserialize(content)
    except (safetensors.SafetensorError, ValueError) as error:
        if content.startswith(_PICKLED) and content[8:9] != b"{":
            raise pickle_error(path, remedy) from error
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    # numpy has no bfloat16 of its own, so safetensors.numpy cannot read such a file.
    dtypes = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": jnp.bfloat16}
    for name, tensor in tensors:
        if tensor["dtype"] not in dtypes:
            raise ValueError(
                f"{path}: tensor {name} is {tensor['dtype']}; supported: {', '.join(dtypes)}"
            )
        flat = np.frombuffer(tensor["data"], np.dtype(dtypes[tensor["dtype"]]))
        try:
            yield name, flat.reshape(tensor["shape"])
        except (ValueError, OverflowError) as error:  # [0, 2**64 - 1] has no values, and fits
            raise ValueError(f"{path}: tensor {name} has no valid shape: {error}") from error


def pickle_error(path: Path, remedy: str = SAVE_AGAIN) -> ValueError:
    """What to raise for a pickle, with the remedy."""
    return ValueError(
        f"{path} is a pickle, which can execute code when it is read; load it where you trust it "
        f"and save it again: {remedy}"
    )

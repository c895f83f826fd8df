"""Arrays from .npz and safetensors files: read whole, within bounds, never unpickled."""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import safetensors
from blake3 import blake3

from ddpm_jax.evaluation import npz
from ddpm_jax.runtime.files import parse_json, read_bytes

HEADER_BYTES = 2**20
ARRAYS = 64  # in a file
EXPANSION = 100  # of a compressed file, at most
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def read(path: Path) -> tuple[dict[str, np.ndarray], str, str]:
    """A file's arrays of floats by name, its text "extractor" ("" without), its BLAKE3.

    Raises:
      ValueError: for a missing or broken file, another kind, or more than 64 arrays.
    """
    readers = {".npz": _of_npz, ".safetensors": _of_safetensors}
    if path.suffix not in readers:
        raise ValueError(
            f"{path} is neither .npz nor .safetensors: export the features as one of these "
            "(pickles are not read)"
        )
    if not path.exists():
        raise ValueError(f"no file {path}: give the .npz or .safetensors file of the features")
    try:
        content = read_bytes(path, sys.maxsize)  # an array asks for no more than the file has
        arrays, extractor = readers[path.suffix](content)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} is not a whole {path.suffix} file of floats: {reason}") from error
    return arrays, extractor, blake3(content).hexdigest()


def _of_npz(content: bytes) -> tuple[dict[str, np.ndarray], str]:
    arrays: dict[str, np.ndarray] = {}
    extractor = ""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        members = archive.infolist()
        if len(members) > ARRAYS:
            raise ValueError(f"it has {len(members)} arrays, the limit is {ARRAYS}")
        if (total := sum(m.file_size for m in members)) > 2**20 + EXPANSION * len(content):
            raise ValueError(f"its {len(content):,} bytes say that they expand to {total:,}")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"the array {name[:100]!r} occurs twice")
            with archive.open(member) as stream:
                array = npz.array(stream, name[:100], "fU")
            if name == "extractor" and array.dtype.kind == "U" and array.size == 1:
                extractor = str(array.reshape(())[()])
            elif array.dtype.kind == "f":
                arrays[name] = array
            else:
                raise ValueError(f"the array {name[:100]!r} is {array.dtype}")
    except npz.BROKEN as error:
        raise ValueError(str(error)) from error
    return arrays, extractor


def _of_safetensors(content: bytes) -> tuple[dict[str, np.ndarray], str]:
    size = int.from_bytes(content[:8], "little")
    if size > HEADER_BYTES:
        raise ValueError(f"its header has {size:,} bytes, the limit is {HEADER_BYTES:,}")
    header = parse_json(content[8 : 8 + size])  # the library takes one of two of the same name
    tensors = safetensors.deserialize(content)
    if len(tensors) > ARRAYS:
        raise ValueError(f"it has {len(tensors)} arrays, the limit is {ARRAYS}")
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _FLOATS:
            raise ValueError(f"the array {name[:100]!r} is {tensor['dtype']}")
        flat = np.frombuffer(tensor["data"], np.dtype(_FLOATS[tensor["dtype"]]))
        arrays[name] = flat.reshape(tensor["shape"])
    extractor = header.get("__metadata__", {}).get("extractor", "")
    return arrays, extractor[: npz.TEXT_BYTES]

"""Files of named tensors: safetensors read whole, pickles refused."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors

from ddpm_jax.runtime.files import parse_json, read_bytes

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
HEADER_BYTES = 2**24  # a hundred thousand tensors
# How torch.save begins: a zip file; before 1.6, and from pickle itself, protocol 2 to 5.
_PICKLED = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read_tensors(
    path: Path, remedy: str, leave_out: Callable[[str], bool] = lambda name: False
) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of one file with its name, in the file's own float type.

    Args:
      path: of the file.
      remedy: what makes such a file of a pickle, for the message.
      leave_out: names of tensors that are skipped, of whatever type.

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
        if leave_out(name):
            continue
        if tensor["dtype"] not in dtypes:
            raise ValueError(
                f"{path}: tensor {name} is {tensor['dtype']}; supported: {', '.join(dtypes)}"
            )
        flat = np.frombuffer(tensor["data"], np.dtype(dtypes[tensor["dtype"]]))
        try:
            yield name, flat.reshape(tensor["shape"])
        except (ValueError, OverflowError) as error:  # [0, 2**64 - 1] has no values, and fits
            raise ValueError(f"{path}: tensor {name} has no valid shape: {error}") from error


def pickle_error(path: Path, remedy: str) -> ValueError:
    """What to raise for a pickle, with the remedy."""
    return ValueError(
        f"{path} is a pickle, which can execute code when it is read; load it where you trust it "
        f"and save it again: {remedy}"
    )

"""Files of named tensors: safetensors, read a tensor at a time; pickles refused."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from ddpm_jax.runtime.files import parse_json, regular

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
HEADER_BYTES = 2**24  # a hundred thousand tensors
# How torch.save begins: a zip file; before 1.6, and from pickle itself, protocol 2 to 5.
_PICKLED = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


# numpy has no bfloat16 of its own, so safetensors.numpy cannot read such a file.
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor that stays in its file until `np.asarray` reads it, in the file's own float type.

    Attributes:
      path: of the file.
      offset: where its bytes begin there.
      dtype, shape: of the array.
    """

    path: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The tensor, read from the file each time.

        Raises:
          OSError: if it cannot be read.
          ValueError: if the file became shorter.
        """
        size = math.prod(self.shape) * self.dtype.itemsize
        with regular(self.path) as file:
            read = np.fromfile(file, np.uint8, size, offset=self.offset)
        if read.size != size:
            raise ValueError(f"{self.path} became shorter; read it when it is written")
        array = read.view(self.dtype).reshape(self.shape)
        return array if dtype is None else array.astype(dtype, copy=False)


def stored_tensors(
    path: Path, remedy: str, leave_out: Callable[[str], bool] = lambda name: False
) -> dict[str, StoredTensor]:
    """Every tensor of one file by its name; none of them is read yet.

    Args:
      path: of the file.
      remedy: what makes such a file of a pickle, for the message.
      leave_out: names of tensors that are skipped, of whatever type.

    Raises:
      OSError: if it cannot be read.
      ValueError: for a broken file, a pickle, or tensors of another type.
    """
    with regular(path) as file:
        start = file.read(9)
        size = int.from_bytes(start[:8], "little")
        file.seek(8)
        try:
            if size > HEADER_BYTES:
                raise ValueError(f"its header has {size:,} bytes, the limit is {HEADER_BYTES:,}")
            header = parse_json(file.read(size))  # the library takes one of two of the same name
            with safetensors.safe_open(path, "numpy"):
                pass  # whose offsets, sizes and types fit the file
        except (safetensors.SafetensorError, ValueError) as error:
            if start.startswith(_PICKLED) and start[8:] != b"{":
                raise pickle_error(path, remedy) from error
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    header.pop("__metadata__", None)
    tensors = {}
    for name, fields in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if leave_out(name):
            continue
        if fields["dtype"] not in DTYPES:
            raise ValueError(
                f"{path}: tensor {name} is {fields['dtype']}; supported: {', '.join(DTYPES)}"
            )
        dtype, shape = np.dtype(DTYPES[fields["dtype"]]), tuple(fields["shape"])
        try:
            np.broadcast_to(np.zeros((), dtype), shape)
        except (ValueError, OverflowError) as error:  # [0, 2**64 - 1] has no values, and fits
            raise ValueError(f"{path}: tensor {name} has no valid shape: {error}") from error
        tensors[name] = StoredTensor(path, 8 + size + fields["data_offsets"][0], dtype, shape)
    return tensors


def read_tensors(
    path: Path, remedy: str, leave_out: Callable[[str], bool] = lambda name: False
) -> Iterator[tuple[str, np.ndarray]]:
    """As `stored_tensors`, each read when its turn comes."""
    for name, tensor in stored_tensors(path, remedy, leave_out).items():
        yield name, np.asarray(tensor)


def pickle_error(path: Path, remedy: str) -> ValueError:
    """What to raise for a pickle, with the remedy."""
    return ValueError(
        f"{path} is a pickle, which can execute code when it is read; load it where you trust it "
        f"and save it again: {remedy}"
    )

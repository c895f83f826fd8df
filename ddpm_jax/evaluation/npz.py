"""The arrays of a .npz file, from its zip and its headers: never unpickled, within bounds."""

import zipfile
import zlib
from typing import Any

import numpy as np

TEXT_BYTES = 4096
# What zipfile raises of damage, a password or an unknown method, beside ValueError.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def array(stream: Any, name: str, kinds: str) -> np.ndarray:
    """The array that a member of the archive holds, read only.

    Args:
      stream: the opened member.
      name: for messages.
      kinds: of dtypes that are taken, as `np.dtype.kind`: "f" floats, "iu" integers, "U" text.

    Raises:
      ValueError: for a malformed header, another kind (a pickle's is "O"), or another size than
        the header says.
      One of BROKEN: from zipfile.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"the array {name!r} has format {version}")
    try:
        shape, by_column, dtype = _HEADERS[version](stream)
    except BROKEN:
        raise
    except Exception as error:  # a header is a Python literal: whatever Python's parser raises
        raise ValueError(f"the array {name!r} has no header of numpy's") from error
    if dtype.hasobject or dtype.kind not in kinds:
        raise ValueError(f"the array {name!r} is {dtype}")
    if any(length < 0 for length in shape):
        raise ValueError(f"the array {name!r} has shape {shape}")
    # In numpy's own integers the product could wrap around.
    size = dtype.itemsize
    for length in shape:
        size *= int(length)
    if dtype.kind == "U" and size > TEXT_BYTES:
        raise ValueError(f"the text {name!r} has {size:,} bytes, the limit is {TEXT_BYTES:,}")
    data = _exactly(stream, size, name)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_column else "C")


def _exactly(stream: Any, size: int, name: str) -> bytes:
    """`size` bytes, and no more than them in memory whatever the header or the zip file says."""
    parts, missing = [], size
    while missing and (part := stream.read(min(missing, 2**24))):
        parts.append(part)
        missing -= len(part)
    if missing or stream.read(1):
        raise ValueError(f"the array {name!r} has not the {size:,} bytes that it says")
    return b"".join(parts)

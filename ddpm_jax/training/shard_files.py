"""A state that several processes write, each its shards: bounded in memory, summed as a whole.

STEP/shards/K.safetensors holds process K's slices of the state's leaves, named LEAF@START,START.
Every slice is written by one of the processes that have it, so that each writes about as much. The
digest of a leaf is that of its bytes in order, whoever wrote them: whole leaves are summed in
memory, split ones as they are read back, a piece at a time.
"""

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blake3 import blake3

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import digests, files, weight_files

FOLDER = "shards"
SUFFIX = ".safetensors"
PIECE = 2**22  # bytes of a leaf in memory at a time, beside the shards themselves
# By name in the files, as the format spells them.
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Slice(NamedTuple):
    """A part of a leaf, [start, start + shape) along each axis."""

    leaf: str
    start: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """In a file."""
        return f"{self.leaf}@{','.join(map(str, self.start))}"


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a slice lies.

    Attributes:
      part: which slice.
      path: of its file.
      offset: of its first byte there.
      dtype: of its values.
    """

    part: Slice
    path: Path
    offset: int
    dtype: np.dtype


def owners(state: Any) -> dict[Slice, int]:
    """Which process writes each slice of a state; the same answer in all of them.

    Args:
      state: of placed arrays; keys as their uint32 data.
    """
    holders: dict[Slice, set[int]] = {}
    sizes: dict[Slice, int] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path)
        for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
            part = _slice(name, index, leaf.shape)
            holders.setdefault(part, set()).add(device.process_index)
            sizes[part] = math.prod(part.shape) * leaf.dtype.itemsize
    loads = dict.fromkeys(sorted(set().union(*holders.values())), 0)
    chosen = {}
    # What only one process has is given; of the rest the largest first, to whoever has least.
    for part in sorted(holders, key=lambda p: (len(holders[p]) > 1, -sizes[p], p)):
        chosen[part] = min(holders[part], key=lambda process: (loads[process], process))
        loads[chosen[part]] += sizes[part]
    return chosen


def own(state: Any, process: int) -> dict[Slice, np.ndarray]:
    """Copies on the host of the slices that a process writes, in the order of their names.

    Args:
      state: as of `owners`.
      process: its number: that of this process.
    """
    chosen = owners(state)
    copies = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path)
        for shard in leaf.addressable_shards:
            part = _slice(name, shard.index, leaf.shape)
            if chosen[part] == process and part not in copies:
                # A copy also on the CPU: the next step overwrites the device's own buffer.
                copies[part] = np.array(shard.data)
    return dict(sorted(copies.items()))


def write(folder: Path, process: int, slices: Mapping[Slice, np.ndarray]) -> tuple[str, str]:
    """Write a process's slices; returns its file's name below the step, and "bytes BLAKE3".

    The sum is of what comes back from the disk, and must be that of what was in memory.

    Raises:
      UserError: for a slice that is not finite.
      OSError: whatever writing raises, or what came back is something else.
    """
    header, offset = {}, 0
    for part, array in slices.items():
        _check_finite(part, array)
        end = offset + array.nbytes
        header[part.name] = {
            "dtype": _NAMES[str(array.dtype)], "shape": [*part.shape], "data_offsets": [offset, end]
        }  # fmt: skip
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > weight_files.HEADER_BYTES:
        raise OSError(
            f"the state has too many leaves for {SUFFIX}: a header of {len(text):,} bytes"
        )
    path = folder / FOLDER / f"{process}{SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    begin = len(text).to_bytes(8, "little") + text
    written = blake3()
    with path.open("wb") as stream:
        contents = (piece for array in slices.values() for piece in _pieces(array))
        for content in itertools.chain([memoryview(begin)], contents):
            stream.write(content)
            written.update(content)
        stream.flush()
        os.fsync(stream.fileno())
    found = blake3()
    with files.regular(path) as back:
        while piece := back.read(PIECE):
            found.update(piece)
    if found.digest() != written.digest():
        raise OSError(f"{path} did not come back as it was written")
    return path.relative_to(folder).as_posix(), f"{path.stat().st_size} {found.hexdigest()}"


def stored(folder: Path) -> dict[str, list[Stored]]:
    """{leaf: where its slices lie} of a step, by the headers of its files.

    Raises:
      OSError, ValueError, KeyError, TypeError: for what is no such file.
    """
    found: dict[str, list[Stored]] = {}
    for path in sorted((folder / FOLDER).glob(f"*{SUFFIX}")):
        with files.regular(path) as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > weight_files.HEADER_BYTES:
                raise ValueError(f"its header has {size:,} bytes")
            header = files.parse_json(stream.read(size))
        for name, entry in header.items():
            leaf, _, start = name.rpartition("@")
            part = Slice(leaf, tuple(map(int, filter(None, start.split(",")))), (*entry["shape"],))
            dtype = np.dtype(jnp.dtype(DTYPES[entry["dtype"]]))
            begin = 8 + size + int(entry["data_offsets"][0])
            found.setdefault(leaf, []).append(Stored(part, path, begin, dtype))
    return found


def read(parts: Sequence[Stored], start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """A block of a leaf, [start, start + shape), of the slices that it overlaps.

    Raises:
      OSError, ValueError: where they do not cover it.
    """
    if not parts:
        raise ValueError("a leaf has no slices")
    out = np.empty(shape, parts[0].dtype)
    filled = 0
    for one in parts:
        begin = [max(a, b) for a, b in zip(start, one.part.start, strict=True)]
        ends = zip(start, shape, one.part.start, one.part.shape, strict=True)
        end = [min(a + n, b + m) for a, n, b, m in ends]
        if any(b >= e for b, e in zip(begin, end, strict=True)):
            continue
        here = tuple(slice(b - a, e - a) for a, b, e in zip(start, begin, end, strict=True))
        there = tuple(
            slice(b - a, e - a) for a, b, e in zip(one.part.start, begin, end, strict=True)
        )
        with files.regular(one.path) as stream:
            rows = _rows(stream, one, there)
        out[here] = rows
        filled += rows.size
    if filled != out.size:
        raise ValueError(f"slices of {parts[0].part.leaf} are missing")
    return out


def _rows(stream: Any, one: Stored, wanted: tuple[slice, ...]) -> np.ndarray:
    """What is wanted of a slice, reading no more than its rows along the first axis."""
    if not wanted:
        stream.seek(one.offset)
        return np.frombuffer(stream.read(one.dtype.itemsize), one.dtype).reshape(())
    inner = one.part.shape[1:]
    row = math.prod(inner) * one.dtype.itemsize
    first, number = wanted[0].start, wanted[0].stop - wanted[0].start
    stream.seek(one.offset + first * row)
    content = stream.read(number * row)
    return np.frombuffer(content, one.dtype).reshape(number, *inner)[(slice(None), *wanted[1:])]


def sum_of(parts: Sequence[Stored], shape: Sequence[int]) -> str:
    """ "dtype[shape] BLAKE3" of a whole leaf, read a few rows at a time.

    Raises:
      OSError, ValueError: as `read`.
    """
    total = blake3()
    dtype = parts[0].dtype
    for start, block in _blocks(shape, dtype.itemsize):
        total.update(_bytes(read(parts, start, block)))
    return f"{digests.kind(jax.ShapeDtypeStruct(tuple(shape), dtype))} {total.hexdigest()}"


def _blocks(
    shape: Sequence[int], itemsize: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Starts and shapes of blocks of about PIECE bytes that cover an array in its bytes' order."""
    if not shape or math.prod(shape) * itemsize <= PIECE:
        yield (0,) * len(shape), tuple(shape)
        return
    row = math.prod(shape[1:]) * itemsize
    step = max(PIECE // max(row, 1), 1)
    for first in range(0, shape[0], step):
        number = min(step, shape[0] - first)
        if number > 1 or row <= PIECE:
            yield (first, *(0,) * (len(shape) - 1)), (number, *shape[1:])
            continue
        for start, block in _blocks(shape[1:], itemsize):
            yield (first, *start), (1, *block)


def _pieces(array: np.ndarray) -> Iterator[memoryview]:
    content = _bytes(array)
    for begin in range(0, len(content), PIECE):
        yield content[begin : begin + PIECE]


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _slice(leaf: str, index: tuple[slice, ...], shape: Sequence[int]) -> Slice:
    bounds = [one.indices(size) for one, size in zip(index, shape, strict=True)]
    return Slice(leaf, tuple(b for b, _, _ in bounds), tuple(e - b for b, e, _ in bounds))


def _check_finite(part: Slice, array: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        total = array.sum()
    if not np.isfinite(total) and not np.isfinite(array).all():
        raise UserError(f"{part.leaf} is not finite")


def placed(parts: Sequence[Stored], like: Any) -> jax.Array:
    """A leaf where it belongs, of which this process reads what its devices need.

    Args:
      parts: where it lies.
      like: an array or ShapeDtypeStruct with a sharding.

    Raises:
      OSError, ValueError: as `read`.
    """
    blocks: dict[Slice, np.ndarray] = {}  # devices may have the same

    def block(index: tuple[slice, ...] | None) -> np.ndarray:
        index = (slice(None),) * len(like.shape) if index is None else index
        part = _slice("", index, like.shape)
        if part not in blocks:
            blocks[part] = read(parts, part.start, part.shape)
        return blocks[part]

    return jax.make_array_from_callback(like.shape, like.sharding, block)

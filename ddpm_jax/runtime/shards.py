"""Arrays that are long to make, in parts on disk: what is there is read, what is missing made."""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy
from blake3 import blake3
from safetensors import SafetensorError

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import digests, files

DESCRIPTION = "description.json"
LOCK = ".lock"
Arrays = dict[str, np.ndarray]


class Room:
    """An array in a file, to which rows are added; to be read when all are there."""

    def __init__(self, file: BinaryIO, values: np.ndarray):
        """Nothing is written yet of the values [n, ...], which tell shape and dtype."""
        self._file, self._shape, self._dtype = file, values.shape[1:], values.dtype

    def add(self, values: np.ndarray) -> None:
        """Add rows. Raises OSError where there is no space."""
        self._file.write(np.ascontiguousarray(values).data)
        self._file.flush()

    def array(self, num: int) -> np.ndarray:
        """All `num` rows, which stay when the file is closed."""
        return np.memmap(self._file, self._dtype, "r", shape=(num, *self._shape))


class Shards:
    """Rows 0..num - 1 of some arrays, in files of `size` rows: DIR/HASH/0_256.safetensors, ...

    A file is there whole or not at all, and holds the digest of what was written. One that is
    damaged is reported and rebuilt. The hash is that of the description, so another description
    never finds these files; another number of rows finds those of the same rows. Processes that
    make the same rows at the same time take turns, part by part, and each part is made once.
    """

    def __init__(
        self, directory: Path, description: Mapping[str, Any], num: int, size: int
    ) -> None:
        """Nothing is read or written yet.

        Args:
          directory: where the folder is.
          description: as JSON, all that a row depends on beside its number.
          num: of all rows.
          size: rows of a file; the last one has fewer.
        """
        self.description = dict(description)
        text = json.dumps(self.description, sort_keys=True)
        self.folder = directory / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.num, self.size = num, size

    def each(self, make: Callable[[range], Arrays]) -> Iterator[tuple[range, Arrays]]:
        """Every part in order, its rows and its arrays, read or made and written.

        Args:
          make: rows -> arrays [len(rows), ...].

        Raises:
          UserError: where a file cannot be written.
        """
        for start in range(0, self.num, self.size):
            yield self.part(start, make)

    def together(self, make: Callable[[range], Arrays]) -> Arrays:
        """The arrays of all rows, to be read: they lie in files without a name, not in memory.

        As `each`; also raises UserError where there is no space for them.
        """
        with contextlib.ExitStack() as stack:
            rooms: dict[str, Room] = {}
            for _, arrays in self.each(make):
                try:
                    for name, values in arrays.items():
                        if name not in rooms:
                            # Parts that are there may lie where nothing can be written.
                            beside = self.folder if os.access(self.folder, os.W_OK) else None
                            file = stack.enter_context(tempfile.TemporaryFile(dir=beside))
                            rooms[name] = Room(file, values)
                        rooms[name].add(values)
                except OSError as error:
                    raise UserError(
                        f"no room for {self.num} rows beside {self.folder} "
                        f"({error.strerror or error}); make some and run the same command again, "
                        "which goes on from there"
                    ) from error
            return {name: room.array(self.num) for name, room in rooms.items()}

    def part(self, start: int, make: Callable[[range], Arrays]) -> tuple[range, Arrays]:
        """The part that begins at row `start`, as in `each`."""
        rows = self._rows(start)
        arrays = self._read(rows)
        if arrays is not None:  # also from a folder that nothing can be written to
            return rows, arrays
        with self._in_turn():
            arrays = self._read(rows, tell=True)
            if arrays is None:
                arrays = make(rows)
                self._write(rows, arrays)
        return rows, arrays

    def ready(self) -> int:
        """How many rows have a file; whether it is whole is seen when it is read."""
        parts = map(self._rows, range(0, self.num, self.size))
        return sum(len(rows) for rows in parts if self._path(rows).exists())

    def _rows(self, start: int) -> range:
        return range(start, min(start + self.size, self.num))

    def _path(self, rows: range) -> Path:
        return self.folder / f"{rows.start}_{rows.stop}.safetensors"

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        with contextlib.ExitStack() as turn:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                turn.enter_context(files.in_turn(self.folder / LOCK))
            except OSError as error:
                raise _unwritable(self.folder, error) from error
            yield

    def _read(self, rows: range, *, tell: bool = False) -> Arrays | None:
        path = self._path(rows)
        try:
            arrays = safetensors.numpy.load(files.read_bytes(path, sys.maxsize))
            sums = arrays.pop("blake3").tobytes()
            if sums != self._sums(rows, arrays) or any(
                len(a) != len(rows) for a in arrays.values()
            ):
                raise ValueError("it has other content than was written")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if tell:
                print(f"{path} is damaged ({reason}); made again", file=sys.stderr)
            return None
        return arrays

    def _write(self, rows: range, arrays: Arrays) -> None:
        sums = np.frombuffer(self._sums(rows, arrays), np.uint8)
        content = safetensors.numpy.save({**arrays, "blake3": sums})
        try:
            if not (self.folder / DESCRIPTION).exists():
                files.write_json(self.folder / DESCRIPTION, self.description)
            with files.whole(self._path(rows)) as partial:
                partial.write_bytes(content)
        except OSError as error:
            raise _unwritable(self._path(rows), error) from error

    def _sums(self, rows: range, arrays: Arrays) -> bytes:
        """Of which part this is, and of the arrays' names, dtypes, shapes and bytes."""
        lines = [f"{name} {digests.sum_of(arrays[name])}\n" for name in sorted(arrays)]
        return blake3("".join([f"{self.folder.name} {rows}\n", *lines]).encode()).digest()


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path} ({error.strerror or error}); mend that and run the same command "
        "again, which goes on from there"
    )

"""Files: written whole or not at all, read within bounds; folders for one process alone."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from blake3 import blake3

from ddpm_jax.errors import UserError

# Seconds: who only looks whether a folder is taken has its lock for an instant.
PROBED = 0.1
JSON_BYTES = 2**20  # configs, indices of shards: the largest of ours has some 5,000 bytes


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` at the end, if nothing was raised.

    A process killed in between leaves what was at `path` before, never half a file.

    Raises:
      OSError: for a folder, before anything is written.
    """
    path = Path(path)
    if path.is_dir():  # as . is, beside which there is no name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):  # where there is no space, half a file would take some
            partial.unlink()
        raise


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write `content` as indented, sorted JSON, whole or not at all."""
    with whole(path) as partial:
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        partial.write_text(text, encoding="utf-8")


def must_write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """As `write_json`. Raises UserError where the file cannot be written."""
    try:
        write_json(path, content)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}); mend that and run the same command "
            "again"
        ) from error


def append(path: str | os.PathLike[str], content: bytes, *, lines: bool = False) -> None:
    """Append to a file all of the content, or nothing if the disk takes only a part of it.

    Args:
      path: of the file; made if it is not there.
      content: what is appended.
      lines: it is whole lines: they begin on a line of their own, whatever is before them.

    Raises:
      OSError: if it cannot be written.
    """
    with open(path, "a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if lines and end:
            file.seek(end - 1)
            content = content if file.read(1) == b"\n" else b"\n" + content
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


@contextlib.contextmanager
def alone(folder: str | os.PathLike[str], wait: float = PROBED) -> Iterator[None]:
    """Have a folder to this process as long as the context lasts, by a lock on FOLDER/.lock.

    The system lets go of the lock when the process ends, however it ends.

    Args:
      folder: that is there.
      wait: seconds to wait for another process that has it.

    Raises:
      UserError: if another process still has it then.
    """
    deadline = time.monotonic() + wait
    with (Path(folder) / ".lock").open("a+", encoding="utf-8") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    stream.seek(0)
                    raise UserError(
                        f"{folder} is in use by {stream.read(200).strip() or 'another process'}: "
                        "wait for it, or name another --workdir"
                    ) from error
                time.sleep(min(0.02 + wait / 100, 1.0))
        holder = f"process {os.getpid()} on {socket.gethostname()}\n"
        with contextlib.suppress(OSError):  # the lock holds also where its name has no space
            os.ftruncate(stream.fileno(), 0)
            os.write(stream.fileno(), holder.encode())
        yield


@contextlib.contextmanager
def in_turn(path: str | os.PathLike[str]) -> Iterator[None]:
    """Wait for the lock on a file, made if it is not there, and hold it in the context.

    For what several processes may make at the same time, each of which then finds it made. The
    system lets go of the lock when the process ends, however it ends.

    Raises:
      OSError: if the file cannot be opened for writing, or its file system has no locks.
    """
    with open(path, "ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """What a regular file holds, if that is at most `limit` bytes; links are followed.

    A pipe or a device is refused, not waited for.

    Raises:
      OSError: if it cannot be opened or read.
      ValueError: if it is no regular file, longer, or changes meanwhile.
    """
    with regular(path) as file:
        status = os.fstat(file.fileno())
        if status.st_size > limit:
            raise ValueError(f"it has more than the limit of {limit:,} bytes")
        content = file.read(status.st_size + 1)
        if len(content) != status.st_size:
            raise ValueError("its size changes; read it when it is written")
    return content


def blake3_of(path: str | os.PathLike[str]) -> str:
    """The BLAKE3 of a regular file of any length, read a part at a time; raises as `read_bytes`."""
    total = blake3()
    with regular(path) as file:
        while part := file.read(2**24):
            total.update(part)
    return total.hexdigest()


def read_lines(path: str | os.PathLike[str], limit: int) -> Iterator[bytes]:
    """The lines of a regular file of any length, one at a time.

    A line of more than `limit` bytes is cut there, so that no line takes more memory.

    Raises:
      OSError: if it cannot be opened or read.
      ValueError: if it is no regular file.
    """
    with regular(path) as file:
        while line := file.readline(limit):
            rest = line
            while not rest.endswith(b"\n") and (rest := file.readline(2**16)):
                pass
            yield line


def read_json(
    path: str | os.PathLike[str], limit: int = JSON_BYTES, *, constants: Sequence[str] = ()
) -> Any:
    """What a JSON file of at most `limit` bytes holds; strict: finite numbers, each key once.

    Args:
      constants: which of NaN, Infinity and -Infinity it may hold all the same, as Python writes.

    Raises:
      OSError: if it cannot be opened or read.
      ValueError: if it is no regular file, longer, not UTF-8 or no such JSON.
    """
    return parse_json(read_bytes(path, limit), constants=constants)


def parse_json(content: bytes, *, constants: Sequence[str] = ()) -> Any:
    """What these bytes of JSON hold; as `read_json`."""

    def constant(name: str) -> float:
        return float(name) if name in constants else _refuse_constant(name)

    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_each_key_once,
            parse_constant=constant,
            parse_float=_finite,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


@contextlib.contextmanager
def regular(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A regular file, opened to be read; raises as `read_bytes`."""
    # Without O_NONBLOCK, opening a pipe that nobody writes to never returns.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        yield file


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated[:100]!r} occurs twice")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {digits[:100]} is too large")
    return number

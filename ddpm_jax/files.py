"""Files that are there whole or not at all, and folders that one process has to itself."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` at the end, if nothing was raised.

    A process killed in between leaves what was at `path` before, never half a file.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    yield partial
    os.replace(partial, path)


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write `content` as indented, sorted JSON, whole or not at all."""
    with whole(path) as partial:
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def alone(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Have a folder to this process as long as the context lasts, by a lock on FOLDER/.lock.

    The system lets go of the lock when the process ends, however it ends.

    Raises:
      UserError: if another process has it.
    """
    with (Path(folder) / ".lock").open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise UserError(
                f"{folder} is in use by {stream.read(200).strip() or 'another process'}: wait for "
                "it, or name another --workdir"
            ) from error
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield

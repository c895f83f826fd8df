"""Files that are there whole or not at all."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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

"""One line that tells two data sets apart, without reading either whole."""

import hashlib
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ddpm_jax.data.base import Reader, Source, Tolerant
from ddpm_jax.data.images import BrokenImage
from ddpm_jax.errors import UserError

SAMPLE = 64


@runtime_checkable
class Listed(Protocol):
    """A source that can tell what it holds without reading every example.

    `listing` yields one text an item: a file's relative path and size, an array's digest. Nothing
    in it may depend on where the data lie.
    """

    def listing(self) -> Iterable[str]: ...


def fingerprint(source: Source) -> str:
    """The sha256 of what a source is and of a part of what it holds, as hex.

    Over its info, its length, 64 of its examples, evenly spaced (all of fewer), with name, dtype,
    shape and bytes of each value but those that the reader says are `derived` from others, and,
    where the source lists its contents, that list. A broken image counts as broken, whatever
    replaces it. So the same data have the same fingerprint wherever they lie; a pixel that changed
    in place in a file of the same size may go unseen.

    Args:
      source: the examples.
    """
    reader: Source | Reader = source.reader if isinstance(source, Tolerant) else source
    sha = hashlib.sha256()
    info = reader.info
    facts = (info.image_shape, info.num_classes, info.levels, info.class_names)
    attributes = [(name, tuple(info.attributes[name])) for name in sorted(info.attributes)]
    _add(sha, f"{facts} {attributes} {len(reader)}")
    for index in _evenly_spaced(len(reader)):
        _add(sha, f"example {index}")
        for part in _example(reader, index):
            _add(sha, part)
    if isinstance(reader, Listed):
        for line in reader.listing():
            _add(sha, f"item {line}")
    return sha.hexdigest()


def _evenly_spaced(size: int) -> list[int]:
    """At most SAMPLE of range(size), the first and the last among them."""
    if size <= SAMPLE:
        return list(range(size))
    return [i * (size - 1) // (SAMPLE - 1) for i in range(SAMPLE)]


def _example(reader: Source | Reader, index: int) -> Iterable[str | bytes]:
    try:
        example: dict[str, Any] = reader[index]
    except (BrokenImage, UserError):  # training on it reports it; nothing stops here
        return ["broken"]
    parts: list[str | bytes] = []
    for name in sorted({*example} - {*getattr(reader, "derived", ())}):
        array = np.asarray(example[name])
        parts += [f"{name} {array.dtype.str} {array.shape}", np.ascontiguousarray(array).tobytes()]
    return parts


def _add(sha: Any, part: str | bytes) -> None:
    # With its length, so that no two lists of parts run together into the same bytes.
    content = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
    sha.update(len(content).to_bytes(8, "big") + content)

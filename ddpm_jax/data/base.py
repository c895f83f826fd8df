"""What every source offers, and how a source lives with broken images."""

import dataclasses
import difflib
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from absl import logging

from ddpm_jax.data.images import BrokenImage
from ddpm_jax.errors import UserError

SPLITS = ("train", "validation")
# {"image": uint8 [H, W, C], "label": int32 scalar, -1 where there is none}, and what else the
# source knows of the image.
Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a model must know of its data.

    Attributes:
      image_shape: (H, W, C).
      num_classes: labels lie in [0, num_classes); 0 where there are no labels.
      levels: pixel values lie in [0, levels): 256 for 8-bit images, 17 for the digits.
      class_names: one name per class; empty where there are no labels.
      attributes: what else is known of each image, as one of some named values: the names of each.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    levels: int
    class_names: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


class Source(Protocol):
    """A random-access collection of examples; reading is safe from several threads."""

    @property
    def info(self) -> DataInfo: ...

    @property
    def skipped(self) -> int:
        """How many distinct broken images were replaced so far."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Reader(Protocol):
    """A source's inner part: may raise `BrokenImage`, whose message names the image."""

    info: DataInfo

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Tolerant:
    """A `Source` around a reader: a broken image stops the run, or is replaced and counted.

    The replacement is the next readable image in the reader's order, so an example stays a pure
    function of its index, whatever was read before and by which thread.

    Args:
      reader: what reads the images.
      on_error: "stop" raises a UserError that names the image; "skip" replaces it, with one
        warning for each.

    Raises:
      UserError: at construction for another `on_error`; on reading, as above, or when no image
        at all can be read.
    """

    def __init__(self, reader: Reader, on_error: str = "stop"):
        if on_error not in ("stop", "skip"):
            raise UserError(f"data.options.on_error={on_error!r}: need stop or skip")
        self.info = reader.info
        self.reader = reader
        self._on_error = on_error
        self._broken: set[int] = set()
        self._lock = threading.Lock()

    @property
    def skipped(self) -> int:
        """How many distinct broken images were replaced so far."""
        return len(self._broken)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Example:
        size = len(self)
        start = range(size)[index]  # an index out of range is an IndexError, not a wrap
        for candidate in range(start, start + size):
            if candidate % size in self._broken:
                continue
            try:
                return self.reader[candidate % size]
            except BrokenImage as error:
                self._report(candidate % size, error)
        raise UserError(f"none of the {size} images can be read: see the warnings above")

    def _report(self, index: int, error: BrokenImage) -> None:
        if self._on_error == "stop":
            raise UserError(f"{error}; remove it, or set data.options.on_error=skip") from error
        with self._lock:
            repeated = index in self._broken
            self._broken.add(index)
        if not repeated:
            logging.warning("skipped: %s", error)


def check_split(split: str) -> None:
    """Raises UserError unless it is "train" or "validation"."""
    if split not in SPLITS:
        raise UserError(f"no split {split!r}: choose one of {', '.join(SPLITS)}")


def check_size(image_size: tuple[int, int], channels: int) -> tuple[int, int, int]:
    """Returns (H, W, C); raises UserError unless H, W >= 1 and C is 1 or 3."""
    size = tuple(image_size) if hasattr(image_size, "__iter__") else ()
    if len(size) != 2 or not all(isinstance(n, int) and n >= 1 for n in size):
        raise UserError(f"data.image_size={image_size!r} must be (height, width), both at least 1")
    if channels not in (1, 3):
        raise UserError(f"data.channels={channels!r} must be 1 (grey) or 3 (RGB)")
    return size[0], size[1], channels


def evenly_spaced(source: Source, num: int) -> list[int]:
    """At most `num` rows of a source. Folders are sorted, often by class: not the first ones."""
    size = len(source)
    num = min(num, size)
    return [k * size // num for k in range(num)]


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the closest of `names`, or an empty string."""
    close = difflib.get_close_matches(name, list(names), n=3)
    return f"; did you mean {' or '.join(repr(other) for other in close)}?" if close else ""

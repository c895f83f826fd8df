"""Images under a folder: which there are, of which split, and tables that name them."""

import collections
import csv
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from absl import logging

from ddpm_jax.data.images import BrokenImage, read_image
from ddpm_jax.errors import EmptySplit, UserError
from ddpm_jax.runtime.files import read_bytes

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
# Images that are not read: they are reported.
UNREAD = (
    *(".avif", ".bmp", ".dng", ".exr", ".gif", ".heic", ".heif", ".ico", ".jp2", ".jxl", ".pbm"),
    *(".pgm", ".pnm", ".ppm", ".psd", ".svg", ".tga", ".tif", ".tiff"),
)
TABLE_BYTES = 2**30  # room for ten million rows


def listed(root: Path) -> tuple[list[str], list[str]]:
    """The images under a folder, recursively, and those of formats that are not read, in order.

    Relative posix paths. Files and folders whose names begin with a dot are ignored.

    Raises:
      UserError: for no such folder, or one without an image that is read.
    """
    if not root.is_dir():
        raise UserError(f"no such folder: {root}; set data.data_dir to a folder of images")
    names = sorted(_images(root))
    files = [file for file in names if has_suffix(file, SUFFIXES)]
    unread = [file for file in names if has_suffix(file, UNREAD)]
    if not files:
        others = f" ({counted(unread)} are not read: save them as PNG)" if unread else ""
        raise UserError(
            f"no PNG, JPEG or WebP images under {root}{others}; set data.data_dir to a folder of "
            "images"
        )
    return files, unread


def report_unread(root: Path, unread: Sequence[str]) -> None:
    """One warning that counts the images of other formats, if there are any."""
    if unread:
        logging.warning(
            "%s: %s are not read; save them as PNG to train on them too", root, counted(unread)
        )


def members_of(root: Path, split: str, files: Sequence[str], holdout: float) -> list[str]:
    """The images of a split, decided by a hash of the relative path alone.

    Args:
      root: the folder, for errors.
      split: "train" or "validation".
      files: all images.
      holdout: the share that is held out, in [0, 1); with two or more images and holdout > 0 both
        splits have at least one.

    Raises:
      UserError: for a holdout out of range, or an empty split.
    """
    members = _splits(files, holdout)[split]
    if not members:
        raise EmptySplit(
            f"{root} has {len(files)} image(s) and data.options.holdout={holdout} leaves none for "
            f"the {split} split: add images, change the holdout, or train without validation "
            "(train.validate_every=0)"
        )
    return members


def rows(path: Path, what: str, value: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (number, cells) of each row that is not empty.

    Args:
      path: of a CSV file.
      what: it is called, for errors.
      value: what stands behind the path in a row.

    Raises:
      UserError: if it is no CSV in UTF-8.
    """
    try:
        text = read_bytes(path, TABLE_BYTES).decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it has NUL characters")
        for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), start=1):
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield number, cells
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is not a {what} ({error}): write rows of relative/path,{value} in UTF-8"
        ) from error


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a name ends in one of some suffixes, in whatever case."""
    return name.lower().endswith(suffixes)


def counted(files: Sequence[str]) -> str:
    """`3 .bmp and 1 .gif files`, the most first."""
    counts = collections.Counter(PurePosixPath(file).suffix.lower() for file in files)
    parts = [f"{count} {suffix}" for suffix, count in counts.most_common()]
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1]))) + " files"


def _images(root: Path) -> Iterator[str]:
    """Yields the relative posix path of every image under `root`, of whatever format."""
    # Where each folder that is still to be walked, and those it was reached by, really lie.
    ways: dict[str, tuple[str, ...]] = {str(root): (os.path.realpath(root),)}
    for current, folders, names in os.walk(root, followlinks=True):
        way = ways.pop(current)
        # Links are followed (large data sets are often linked in), except back to a folder on the
        # way here, or to a parent of one: two that link to each other would never end.
        inner = {name: os.path.realpath(os.path.join(current, name)) for name in folders}
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not any((passed + os.sep).startswith(inner[name] + os.sep) for passed in way)
        ]
        for name in folders:
            ways[os.path.join(current, name)] = (*way, inner[name])
        for name in names:
            if has_suffix(name, (*SUFFIXES, *UNREAD)) and not name.startswith("."):
                yield (Path(current) / name).relative_to(root).as_posix()


def read_below(root: Path, file: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    """The image of a relative path, uint8 [H, W, C]. Raises BrokenImage, which names it."""
    height, width, channels = image_shape
    try:
        return read_image(root / file, (height, width), channels)
    except BrokenImage as error:
        raise BrokenImage(f"broken image {root / file}: {error}") from error


def bytes_of(path: Path) -> int:
    """Of a file; -1 of a link to nothing, which is a broken image too."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _splits(files: Sequence[str], holdout: float) -> dict[str, list[str]]:
    if not 0 <= holdout < 1:
        raise UserError(f"data.options.holdout={holdout} must be at least 0 and below 1")
    draws = {file: _draw(file) for file in files}
    held_out = {file for file in files if draws[file] < holdout}
    if holdout > 0 and len(files) > 1:
        # The extremes of the draw, so that here too few files move when others are added.
        held_out.add(min(files, key=draws.__getitem__))
        held_out.discard(max(files, key=draws.__getitem__))
    elif len(files) == 1:
        held_out.clear()
    return {
        "train": [file for file in files if file not in held_out],
        "validation": [file for file in files if file in held_out],
    }


def _draw(file: str) -> float:
    """A number in [0, 1) that depends on the relative path alone."""
    digest = hashlib.sha256(file.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48

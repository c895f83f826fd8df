"""A folder of PNG, JPEG and WebP images as a source."""

import collections
import csv
import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from absl import logging

from ddpm_jax.data.base import DataInfo, Example, Tolerant, check_size
from ddpm_jax.data.images import BrokenImage, read_image
from ddpm_jax.errors import EmptySplit, UserError
from ddpm_jax.runtime.files import read_bytes

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
# Images that are not read: they are reported.
UNREAD = (
    *(".avif", ".bmp", ".dng", ".exr", ".gif", ".heic", ".heif", ".ico", ".jp2", ".jxl", ".pbm"),
    *(".pgm", ".pnm", ".ppm", ".psd", ".svg", ".tga", ".tif", ".tiff"),
)
LABELS_FILE = "labels.csv"
LABELS_BYTES = 2**30  # room for ten million rows
_WHOLE = re.compile(r"-?[0-9]+")


def folder(
    path: str | os.PathLike[str],
    split: str,
    image_size: tuple[int, int],
    channels: int,
    *,
    holdout: float = 0.05,
    labels_file: str | None = None,
    on_error: str = "stop",
) -> Tolerant:
    """The images under a folder, recursively, scaled and cut to one size.

    Labels come from `labels.csv` in the folder (or `labels_file`), rows `relative/path,label`
    with an optional header; otherwise from the first subfolder of each path; otherwise there are
    none. Either way the different names, sorted, are the classes: 1, 2, 10 where all of them are
    whole numbers. Files whose names begin with a dot are ignored, and so are images of other
    formats (`UNREAD`), which one warning counts.

    Whether an image is held out depends on a hash of its relative path alone: adding files moves
    no other file between the splits.

    Args:
      path: the folder.
      split: "train" or "validation".
      image_size: (H, W); see `images.fit`.
      channels: 1 (grey) or 3 (RGB).
      holdout: the share of the images that is held out for validation, in [0, 1); with two or
        more images and holdout > 0 both splits have at least one.
      labels_file: another labels file; a relative path is looked up in the folder.
      on_error: "stop" or "skip" at a broken image; see `base.Tolerant`.

    Returns:
      A source of {"image": uint8 [H, W, C], "label": int32}, in the order of the paths.

    Raises:
      UserError: no such folder, no images, bad labels, a class of which no image is read, an empty
        split, a bad argument.
    """
    root = Path(path).expanduser()
    shape = check_size(image_size, channels)
    if not root.is_dir():
        raise UserError(f"no such folder: {root}; set data.data_dir to a folder of images")
    names = sorted(_files(root))
    files = [file for file in names if _has(file, SUFFIXES)]
    unread = [file for file in names if _has(file, UNREAD)]
    if not files:
        others = f" ({_counted(unread)} are not read: save them as PNG)" if unread else ""
        raise UserError(
            f"no PNG, JPEG or WebP images under {root}{others}; set data.data_dir to a folder of "
            "images"
        )
    class_names, labels = _labels(root, files, unread, labels_file)
    if unread and split == "train":
        logging.warning(
            "%s: %s are not read; save them as PNG to train on them too", root, _counted(unread)
        )
    members = _split(files, holdout)[split]
    if not members:
        raise EmptySplit(
            f"{root} has {len(files)} image(s) and data.options.holdout={holdout} leaves none for "
            f"the {split} split: add images, change the holdout, or train without validation "
            "(train.validate_every=0)"
        )
    info = DataInfo(shape, len(class_names), 256, class_names)
    return Tolerant(
        _FolderReader(root, members, [labels[file] for file in members], info), on_error
    )


def build(
    split: str,
    *,
    image_size: tuple[int, int],
    channels: int,
    data_dir: str | None = None,
    holdout: float = 0.05,
    labels_file: str | None = None,
    on_error: str = "stop",
) -> Tolerant:
    """The source of data.name=folder: as `folder`, of what a config says.

    Raises:
      UserError: without a data_dir, or as `folder`.
    """
    if data_dir is None:
        raise UserError("data.name=folder needs data.data_dir: set it to a folder of images")
    return folder(
        data_dir,
        split,
        image_size,
        channels,
        holdout=holdout,
        labels_file=labels_file,
        on_error=on_error,
    )


class _FolderReader:
    def __init__(self, root: Path, files: Sequence[str], labels: Sequence[int], info: DataInfo):
        self.info = info
        self._root, self._files, self._labels = root, files, labels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        path = self._root / self._files[index]
        height, width, channels = self.info.image_shape
        try:
            image = read_image(path, (height, width), channels)
        except BrokenImage as error:
            raise BrokenImage(f"broken image {path}: {error}") from error
        return {"image": image, "label": np.int32(self._labels[index])}

    def listing(self) -> Iterator[str]:
        """Size, label and relative path of each image."""
        for file, label in zip(self._files, self._labels, strict=True):
            try:
                size = (self._root / file).stat().st_size
            except OSError:  # a link to nothing, which is a broken image too
                size = -1
            yield f"{size} {label} {file}"


def _files(root: Path) -> Iterator[str]:
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
            if _has(name, (*SUFFIXES, *UNREAD)) and not name.startswith("."):
                yield (Path(current) / name).relative_to(root).as_posix()


def _has(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes)


def _counted(files: Sequence[str]) -> str:
    """`3 .bmp and 1 .gif files`, the most first."""
    counts = collections.Counter(PurePosixPath(file).suffix.lower() for file in files)
    parts = [f"{count} {suffix}" for suffix, count in counts.most_common()]
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1]))) + " files"


def _labels(
    root: Path, files: Sequence[str], unread: Sequence[str], labels_file: str | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Returns the class names and {file: label}."""
    path = root / (LABELS_FILE if labels_file is None else Path(labels_file).expanduser())
    if path.exists():
        return _numbered(path, _labels_in_file(path, files))
    if labels_file is not None:
        raise UserError(f"no such labels file: {path}; mend data.options.labels_file")
    folders = {file: file.partition("/")[0] for file in files if "/" in file}
    if not folders:
        return (), dict.fromkeys(files, -1)
    loose = next((file for file in files if file not in folders), None)
    if loose is not None:
        raise UserError(
            f"{root / loose} lies in no subfolder, but {root} has one per class: move it into one, "
            f"or write {LABELS_FILE}"
        )
    inside_of = {file.partition("/")[0] for file in unread if "/" in file}
    vanished = sorted(inside_of - {*folders.values()})
    if vanished:
        inside = [file for file in unread if file.startswith(f"{vanished[0]}/")]
        more = f" ({len(vanished) - 1} more such folders)" if vanished[1:] else ""
        raise UserError(
            f"the class {root / vanished[0]} has no image that is read, only {_counted(inside)}"
            f"{more}: save them as PNG, or move the folder elsewhere"
        )
    return _numbered(root, folders)


def _labels_in_file(path: Path, files: Sequence[str]) -> dict[str, str]:
    existing = set(files)
    labels: dict[str, str] = {}
    for number, row in _rows(path):
        if number == 1 and not _has(row[0], (*SUFFIXES, *UNREAD)):
            continue  # a header
        if len(row) != 2 or not all(row):
            got = ",".join(row)[:100]
            raise UserError(f"{path}, line {number}: write relative/path,label; got {got!r}")
        file = PurePosixPath(row[0]).as_posix()
        if file not in existing:
            raise UserError(
                f"{path}, line {number}: no such image: {row[0][:100]!r}; mend or remove the row"
            )
        if labels.setdefault(file, row[1]) != row[1]:
            raise UserError(f"{path}, line {number}: {row[0]!r} has two labels; remove one row")
    unlabelled = [file for file in files if file not in labels]
    if unlabelled:
        raise UserError(
            f"{path} has no row for {unlabelled[0]!r} ({len(unlabelled)} such image(s)): add the "
            "rows, or remove the images"
        )
    return labels


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (number, cells) of each row that is not empty. Raises UserError if it is no CSV."""
    try:
        text = read_bytes(path, LABELS_BYTES).decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it has NUL characters")
        for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), start=1):
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield number, cells
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is not a labels file ({error}): write rows of relative/path,label in UTF-8"
        ) from error


def _numbered(path: Path, labels: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The different names in order, and each file's number among them."""
    names = sorted(set(labels.values()))
    if all(_WHOLE.fullmatch(name) for name in names):
        if names[0].startswith("-"):
            raise UserError(f"{path} has the label {names[0]}: integer labels start at 0")
        # As numbers, and without making them: one may have a million digits.
        names.sort(key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name))
    number = {name: n for n, name in enumerate(names)}
    return tuple(names), {file: number[label] for file, label in labels.items()}


def _split(files: Sequence[str], holdout: float) -> dict[str, list[str]]:
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

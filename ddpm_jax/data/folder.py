"""A folder of PNG, JPEG and WebP images as a source."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ddpm_jax.data.base import DataInfo, Example, Tolerant, check_size
from ddpm_jax.data.image_files import (
    SUFFIXES,
    UNREAD,
    bytes_of,
    counted,
    has_suffix,
    listed,
    members_of,
    read_below,
    report_unread,
    rows,
)
from ddpm_jax.errors import UserError

LABELS_FILE = "labels.csv"
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
    files, unread = listed(root)
    class_names, labels = _labels(root, files, unread, labels_file)
    if split == "train":
        report_unread(root, unread)
    members = members_of(root, split, files, holdout)
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
        image = read_below(self._root, self._files[index], self.info.image_shape)
        return {"image": image, "label": np.int32(self._labels[index])}

    def listing(self) -> Iterator[str]:
        """Size, label and relative path of each image."""
        for file, label in zip(self._files, self._labels, strict=True):
            yield f"{bytes_of(self._root / file)} {label} {file}"


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
            f"the class {root / vanished[0]} has no image that is read, only {counted(inside)}"
            f"{more}: save them as PNG, or move the folder elsewhere"
        )
    return _numbered(root, folders)


def _labels_in_file(path: Path, files: Sequence[str]) -> dict[str, str]:
    existing = set(files)
    labels: dict[str, str] = {}
    for number, row in rows(path, "labels file", "label"):
        if number == 1 and not has_suffix(row[0], (*SUFFIXES, *UNREAD)):
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

"""A folder of images with a caption each, or several."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ddpm_jax.data.base import DataInfo, Example, Tolerant, check_size
from ddpm_jax.data.image_files import (
    SUFFIXES,
    UNREAD,
    bytes_of,
    has_suffix,
    listed,
    members_of,
    read_below,
    report_unread,
    rows,
)
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import parse_json, read_bytes, read_lines

FILES = ("captions.csv", "captions.jsonl")
CAPTION_BYTES = 2**16  # of a caption, or of a line of captions.jsonl
_NAMES = ("file_name", "file")
_TEXTS = ("caption", "text")


def captioned_folder(
    path: str | os.PathLike[str],
    split: str,
    image_size: tuple[int, int],
    channels: int,
    *,
    holdout: float = 0.05,
    captions_file: str | None = None,
    on_error: str = "stop",
) -> Tolerant:
    """The images under a folder, recursively, with captions; an example for each caption.

    Captions come from `captions.csv`, rows `relative/path,caption` with an optional header, from
    `captions.jsonl`, lines `{"file_name": "relative/path", "caption": "..."}` (or "file", "text"),
    or else from a file of the image's name with the suffix .txt beside each. An image with several
    rows is several examples, all of one split: it is decided by a hash of its relative path alone.

    Args:
      path, split, image_size, channels, holdout, on_error: as of `folder`.
      captions_file: another .csv or .jsonl; a relative path is looked up in the folder.

    Returns:
      A source of {"image": uint8 [H, W, C], "label": -1, "caption": str}, in the order of the
      paths, then of the rows.

    Raises:
      UserError: no such folder, no images, an image without a caption or a caption without an
        image, one that is empty or not UTF-8, an empty split, a bad argument.
    """
    root = Path(path).expanduser()
    shape = check_size(image_size, channels)
    files, unread = listed(root)
    captions = _captions(root, files, captions_file)
    if split == "train":
        report_unread(root, unread)
    members = members_of(root, split, files, holdout)
    pairs = [(file, caption) for file in members for caption in captions[file]]
    return Tolerant(_Reader(root, pairs, DataInfo(shape, 0, 256, ())), on_error)


def build(
    split: str,
    *,
    image_size: tuple[int, int],
    channels: int,
    data_dir: str | None = None,
    holdout: float = 0.05,
    captions_file: str | None = None,
    on_error: str = "stop",
) -> Tolerant:
    """The source of data.name=captions: as `captioned_folder`, of what a config says.

    Raises:
      UserError: without a data_dir, or as `captioned_folder`.
    """
    if data_dir is None:
        raise UserError("data.name=captions needs data.data_dir: set it to a folder of images")
    return captioned_folder(
        data_dir,
        split,
        image_size,
        channels,
        holdout=holdout,
        captions_file=captions_file,
        on_error=on_error,
    )


class _Reader:
    def __init__(self, root: Path, pairs: Sequence[tuple[str, str]], info: DataInfo):
        self.info = info
        self._root, self._pairs = root, pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        file, caption = self._pairs[index]
        image = read_below(self._root, file, self.info.image_shape)
        return {"image": image, "label": np.int32(-1), "caption": caption}

    def caption(self, index: int) -> str:
        """Of an example, without its image."""
        return self._pairs[index][1]

    def listing(self) -> Iterator[str]:
        """Size, digest of the caption and relative path of each example."""
        for file, caption in self._pairs:
            size = bytes_of(self._root / file)
            yield f"{size} {hashlib.sha256(caption.encode()).hexdigest()} {file}"


def _captions(root: Path, files: Sequence[str], captions_file: str | None) -> dict[str, list[str]]:
    """{file: its captions}, of each file at least one."""
    named = [root / name for name in FILES if (root / name).exists()]
    if captions_file is not None:
        named = [root / Path(captions_file).expanduser()]
        if not named[0].exists():
            raise UserError(f"no such captions file: {named[0]}; mend data.options.captions_file")
    if len(named) > 1:
        raise UserError(f"{root} has {' and '.join(FILES)}: name one in data.options.captions_file")
    if not named:
        return {file: [_beside(root, file)] for file in files}
    table = named[0]
    of_table = _csv(table) if table.suffix == ".csv" else _jsonl(table)
    captions: dict[str, list[str]] = {file: [] for file in files}
    for number, name, caption in of_table:
        file = PurePosixPath(name).as_posix()
        if file not in captions:
            raise UserError(
                f"{table}, line {number}: no such image: {name[:100]!r}; mend or remove the line"
            )
        captions[file].append(_checked(caption, f"{table}, line {number}"))
    without = [file for file, own in captions.items() if not own]
    if without:
        raise UserError(
            f"{table} has no caption for {without[0]!r} ({len(without)} such image(s)): add them, "
            "or remove the images"
        )
    return captions


def _beside(root: Path, file: str) -> str:
    path = (root / file).with_suffix(".txt")
    if not path.exists():
        raise UserError(
            f"{root / file} has no caption: write {' or '.join(FILES)}, or {path.name} beside it"
        )
    try:
        return _checked(read_bytes(path, CAPTION_BYTES).decode("utf-8-sig"), str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a caption in UTF-8 ({error})") from error


def _csv(path: Path) -> Iterator[tuple[int, str, str]]:
    for number, row in rows(path, "captions file", "caption"):
        if number == 1 and not has_suffix(row[0], (*SUFFIXES, *UNREAD)):
            continue  # a header
        if len(row) != 2 or not row[0]:
            got = ",".join(row)[:100]
            raise UserError(
                f"{path}, line {number}: write relative/path,caption, a caption with commas in "
                f'"quotes"; got {got!r}'
            )
        yield number, row[0], row[1]


def _jsonl(path: Path) -> Iterator[tuple[int, str, str]]:
    number = 0
    try:
        for number, line in enumerate(read_lines(path, CAPTION_BYTES), start=1):
            if not line.strip():
                continue
            entry = parse_json(line)
            name, caption = (_first(entry, keys) for keys in (_NAMES, _TEXTS))
            yield number, name, caption
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f'{path}, line {number}: write {{"file_name": ..., "caption": ...}} in UTF-8 ({reason})'
        ) from error


def _first(entry: object, keys: Sequence[str]) -> str:
    values = [entry[key] for key in keys if key in entry] if isinstance(entry, dict) else []
    if not values or not isinstance(values[0], str):
        raise ValueError(f"it has no text {json.dumps(keys[0])}")
    return values[0]


def _checked(caption: str, where: str) -> str:
    """A caption on one line. Raises UserError for one that is empty, or no Unicode."""
    words = " ".join(caption.split())
    if not words or "\0" in words:
        raise UserError(f"{where}: the caption is {'broken' if words else 'empty'}")
    try:
        size = len(words.encode())
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: the caption has a lone surrogate") from error
    if size > CAPTION_BYTES:
        raise UserError(f"{where}: the caption has more than the limit of {CAPTION_BYTES} bytes")
    return words

"""MNIST's own file format, in which Fashion-MNIST and EMNIST come too; also as .gz."""

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_jax.data import images
from ddpm_jax.data.base import DataInfo, Example, check_size, check_split
from ddpm_jax.errors import EmptySplit, UserError
from ddpm_jax.runtime.files import regular

LIMIT = 2**31  # bytes of one array; Fashion-MNIST's images have 47 million
_PREFIXES = {"train": ("train",), "validation": ("t10k", "test")}


class Idx:
    """A source of images in IDX files; see `idx`."""

    skipped = 0

    def __init__(self, stored: np.ndarray, labels: np.ndarray, info: DataInfo):
        self.info = info
        self._stored, self._labels = stored, labels.astype(np.int32)

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index: int) -> Example:
        height, width, channels = self.info.image_shape
        grey = Image.fromarray(self._stored[index])
        image = images.pixels(grey, (height, width), channels)
        return {"image": image, "label": self._labels[index]}

    def listing(self) -> Iterator[str]:
        """The digests of both arrays."""
        for array in (self._stored, self._labels):
            yield hashlib.sha256(array.tobytes()).hexdigest()


def idx(
    path: str | os.PathLike[str], split: str, image_size: tuple[int, int], channels: int
) -> Idx:
    """The images and labels of a folder of IDX files (LeCun, Cortes & Burges, the MNIST database).

    Files are named as published: `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, with
    `t10k` (or `test`) for the images to validate on, with .gz or without; something may stand
    before, as in `emnist-letters-train-images-idx3-ubyte`.

    Args:
      path: the folder.
      split: "train" or "validation".
      image_size: (H, W); images of another size are scaled and cut, see `images.fit`.
      channels: 1, or 3 for grey in three equal channels.

    Returns:
      A source of {"image": uint8 [H, W, C], "label": int32}, in the order of the file. Classes are
      0 to the largest label of the split that is there.

    Raises:
      UserError: no such folder or file, several for one split, or a broken file.
    """
    root = Path(path).expanduser()
    check_split(split)
    shape = check_size(image_size, channels)
    if not root.is_dir():
        raise UserError(f"no such folder: {root}; set data.data_dir to a folder of IDX files")
    stored = _read(_only(root, split, "images", 3), 3)
    labels = _read(_only(root, split, "labels", 1), 1)
    if len(stored) != len(labels):
        raise UserError(f"{root} has {len(stored)} images and {len(labels)} labels for {split}")
    if not stored.size:
        raise EmptySplit(f"{root} has no images for the {split} split")
    # Of the images to train on where they are there, so that both splits have the same classes.
    of_train = labels
    if split == "validation" and _found(root, "train", "labels", 1):
        of_train = _read(_only(root, "train", "labels", 1), 1)
    classes = int(max(of_train.max(initial=0), labels.max())) + 1
    info = DataInfo(shape, classes, 256, tuple(str(n) for n in range(classes)))
    return Idx(stored, labels, info)


def build(
    split: str, *, image_size: tuple[int, int], channels: int, data_dir: str | None = None
) -> Idx:
    """The source of data.name=idx: as `idx`, of what a config says.

    Raises:
      UserError: without a data_dir, or as `idx`.
    """
    if data_dir is None:
        raise UserError("data.name=idx needs data.data_dir: set it to a folder of IDX files")
    return idx(data_dir, split, image_size, channels)


def _found(root: Path, split: str, what: str, axes: int) -> list[Path]:
    found = []
    for prefix in _PREFIXES[split]:
        for kind in ("-idx", ".idx"):  # some copies have a dot
            name = f"{prefix}-{what}{kind}{axes}-ubyte"
            found += [file for end in ("", ".gz") for file in root.glob(f"*{name}{end}")]
    return sorted(found)


def _only(root: Path, split: str, what: str, axes: int) -> Path:
    found = _found(root, split, what, axes)
    name = f"{_PREFIXES[split][0]}-{what}-idx{axes}-ubyte"
    if not found and split == "validation" and what == "images":
        raise EmptySplit(
            f"{root} has no {name}, nor .gz: add it, or train without validation "
            "(train.validate_every=0)"
        )
    if not found:
        raise UserError(f"{root} has no {name}, nor .gz; set data.data_dir to the folder of both")
    if len(found) > 1:
        names = " and ".join(file.name for file in found[:2])
        raise UserError(f"{root} has {names}: keep one of them in a folder of its own")
    return found[0]


def _read(path: Path, axes: int) -> np.ndarray:
    """uint8 of so many axes. Raises UserError for what is no such file."""
    try:
        with regular(path) as file:
            content = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            head = content.read(4 + 4 * axes)
            if head[:4] != bytes([0, 0, 8, axes]) or len(head) != 4 + 4 * axes:
                raise ValueError(f"it does not begin as IDX of {axes} axes of bytes")
            shape = tuple(int(n) for n in np.frombuffer(head[4:], ">u4"))
            size = math.prod(shape)
            if size > LIMIT:
                raise ValueError(f"it says that it has {size:,} bytes, over {LIMIT:,}")
            values = content.read(size + 1)
            if len(values) != size:
                raise ValueError(f"it has not just the {size:,} bytes that it says")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is not an IDX file ({error})") from error
    return np.frombuffer(values, np.uint8).reshape(shape)

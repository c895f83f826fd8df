"""Sources by name: built-in digits and shapes, a folder of images, a prepared TFDS data set."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ddpm_jax.data.base import DataInfo, Example, Source, check_size, nearest
from ddpm_jax.data.folder import folder
from ddpm_jax.data.shapes import ATTRIBUTES, describe, parse_object, shapes
from ddpm_jax.data.tfds import tfds_source
from ddpm_jax.errors import UserError

BUILT_IN = ("digits", "shapes", "folder")
SPLITS = ("train", "validation")
# What a network can be conditioned on beside a label: the names of a value, or an image's channels.
CONDITIONS: dict[str, dict[str, tuple[str, ...] | int]] = {
    "shapes": {**ATTRIBUTES, "silhouette": 1, "outline": 1}
}
# What reads an image's attributes back from its pixels.
DESCRIBERS: dict[str, Callable[[np.ndarray], dict[str, int] | None]] = {"shapes": describe}


class ArraySource:
    """Images that are held in memory: uint8 [N, H, W, C] and labels int [N]."""

    skipped = 0

    def __init__(self, images: np.ndarray, labels: np.ndarray, info: DataInfo):
        if images.dtype != np.uint8 or images.shape[1:] != info.image_shape:
            raise ValueError(
                f"need uint8 {info.image_shape}, got {images.dtype} {images.shape[1:]}"
            )
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images but {len(labels)} labels")
        self.info = info
        self._images = images
        self._labels = labels.astype(np.int32)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        return {"image": self._images[index], "label": self._labels[index]}

    def listing(self) -> Iterator[str]:
        """The digests of both arrays."""
        for array in (self._images, self._labels):
            yield hashlib.sha256(array.tobytes()).hexdigest()


def digits(split: str) -> ArraySource:
    """Real handwritten digits: 8x8 grey images of 17 levels (0..16), ten classes, no download.

    The 1,797 images of scikit-learn's `load_digits` (the test set of Alpaydin & Kaynak 1998, UCI),
    in a fixed split of 1,437 to 360 whose class proportions agree.

    Args:
      split: "train" or "validation".

    Returns:
      A source of {"image": uint8 [8, 8, 1], "label": int32 in [0, 10)}.

    Raises:
      UserError: for another split.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    _check_split(split)
    data = load_digits()
    train, validation = train_test_split(
        np.arange(len(data.target)), test_size=0.2, stratify=data.target, random_state=0
    )
    chosen = np.sort(train if split == "train" else validation)
    images = data.images[chosen, :, :, None].astype(np.uint8)
    info = DataInfo((8, 8, 1), 10, 17, tuple(str(name) for name in data.target_names))
    return ArraySource(images, data.target[chosen], info)


def build_source(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: tuple[int, int] = (8, 8),
    channels: int = 1,
    holdout: float = 0.05,
    labels_file: str | None = None,
    on_error: str = "stop",
    train_split: str = "train",
    validation_split: str = "test",
    max_objects: int | None = None,
    held_out: Sequence[str] = (),
) -> Source:
    """The source of a name, as a config states it.

    Args:
      name: "digits", "shapes", "folder", or a TFDS data set (`NAME`, `NAME/CONFIG` or
        `NAME:VERSION`).
      split: "train" or "validation".
      data_dir: the folder of images, or where TFDS data sets are prepared (None: TFDS's default).
      image_size: (H, W).
      channels: 1 or 3.
      holdout: folder only: the share of the images that is held out.
      labels_file: folder only: the labels file, if it is not `labels.csv`.
      on_error: "stop" or "skip" at a broken image.
      train_split: TFDS only: what "train" means there, for example `train[:95%]`.
      validation_split: TFDS only: what "validation" means there.
      max_objects: shapes only: 1 or 2 (None: 2).
      held_out: shapes only: the objects that are never drawn, "red circle".

    Returns:
      A source of {"image": uint8 [H, W, C], "label": int32}.

    Raises:
      UserError: an unknown name, missing or unprepared data, a size that the data cannot have.
    """
    _check_split(split)
    shape = check_size(image_size, channels)
    _check_drawn(name, max_objects=max_objects, held_out=tuple(held_out))
    if name == "digits":
        if shape != (8, 8, 1):
            raise UserError(
                f"digits are 8x8 with 1 channel, got data.image_size={tuple(image_size)} and "
                f"data.channels={channels}: set them to (8, 8) and 1"
            )
        return digits(split)
    if name == "shapes":
        if shape[0] != shape[1] or channels != 3:
            raise UserError(
                f"shapes are square with 3 channels, got data.image_size={tuple(image_size)} and "
                f"data.channels={channels}: set them to (32, 32) and 3"
            )
        return shapes(
            split,
            shape[0],
            max_objects=2 if max_objects is None else max_objects,
            held_out=[parse_object(text) for text in held_out],
        )
    if name == "folder":
        if data_dir is None:
            raise UserError("data.name=folder needs data.data_dir: set it to a folder of images")
        return folder(
            data_dir,
            split,
            shape[:2],
            channels,
            holdout=holdout,
            labels_file=labels_file,
            on_error=on_error,
        )
    suggestion = nearest(name, BUILT_IN)
    return tfds_source(
        name,
        train_split if split == "train" else validation_split,
        data_dir,
        shape[:2],
        channels,
        on_error=on_error,
        otherwise=f" (built in: {', '.join(BUILT_IN)}{suggestion})",
    )


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"no split {split!r}: choose one of {', '.join(SPLITS)}")


def _check_drawn(name: str, **options: Any) -> None:
    """Raises UserError for what is said of drawn shapes where others are read."""
    for field, value in options.items():
        if name != "shapes" and value not in (None, ()):
            raise UserError(f"data.{field}={value!r} is of data.name=shapes, not {name}: leave it")

"""Images that are held in memory as a source."""

import hashlib
from collections.abc import Iterator

import numpy as np

from ddpm_jax.data.base import DataInfo, Example


class ArraySource:
    """Images that are held in memory: uint8 [N, H, W, C] and labels int [N].

    Raises:
      ValueError: for images of another dtype or shape than `info` says, or fewer or more labels.
    """

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

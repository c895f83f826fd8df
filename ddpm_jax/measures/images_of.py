"""Images of data as samples are written: uint8 of 256 levels."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from ddpm_jax.data import DataInfo, Source


def eight_bit(source: Source, rows: Iterable[int]) -> np.ndarray:
    """Images of a source, uint8 [n, H, W, C], as `of_256_levels`."""
    return of_256_levels([source[k]["image"] for k in rows], source.info)


def of_256_levels(images: Sequence[np.ndarray], info: DataInfo) -> np.ndarray:
    """Images of data, uint8 [n, H, W, C], their pixel values spread over 0 to 255.

    As samples are written: of 17 levels the largest is 255, and they are rounded.
    """
    stacked, top = np.stack(images), info.levels - 1
    return stacked if top == 255 else np.round(stacked * (255 / top)).astype(np.uint8)


def eight_bit_info(info: DataInfo) -> DataInfo:
    """The info of a source whose images went through `eight_bit`."""
    return dataclasses.replace(info, levels=256)

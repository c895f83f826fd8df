"""Pictures: grids of samples as PNG files, and as moving GIFs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_jax.runtime import files

# Smaller images are enlarged, each pixel to a square of whole pixels, or nobody could see them.
MIN_TILE = 32
# With more classes than this, a column each would make a grid too wide to look at.
MAX_CLASS_COLUMNS = 20


def grid(images: np.ndarray, columns: int | None = None, padding: int = 2) -> np.ndarray:
    """Images side by side on white, row by row.

    Args:
      images: uint8 [N, H, W, C], C 1 or 3.
      columns: images in a row; None for a square-ish grid.
      padding: pixels between them.

    Returns:
      uint8 [rows, columns, C] pixels.
    """
    scale = max(1, -(-MIN_TILE // min(images.shape[1:3])))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    num, height, width, channels = images.shape
    columns = min(columns or int(np.ceil(np.sqrt(num))), num)
    rows = -(-num // columns)
    cell = (height + padding, width + padding)
    shape = (rows * cell[0] + padding, columns * cell[1] + padding, channels)
    canvas = np.full(shape, 255, np.uint8)
    for k, image in enumerate(images):
        top, left = (k // columns) * cell[0] + padding, (k % columns) * cell[1] + padding
        canvas[top : top + height, left : left + width] = image
    return canvas


def class_columns(num_classes: int) -> int | None:
    """Columns of a grid whose image k is of class k mod num_classes: one a class, if they fit."""
    return num_classes if 0 < num_classes <= MAX_CLASS_COLUMNS else None


def save_png(path: str | Path, image: np.ndarray) -> None:
    """Write uint8 [H, W, C] (C 1 or 3) as PNG, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    with files.whole(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG")


def save_gif(path: str | Path, frames: Sequence[np.ndarray], seconds: float = 3.0) -> None:
    """Write uint8 [H, W, C] frames as a GIF that repeats, whole or not at all.

    Args:
      path: of the file.
      frames: at least one.
      seconds: until the last frame, which then stands for one more.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [Image.fromarray(f[..., 0] if f.shape[-1] == 1 else f) for f in frames]
    period = round(1000 * seconds / len(pictures))
    with files.whole(path) as partial:
        pictures[0].save(
            partial,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=[*[period] * (len(pictures) - 1), period + 1000],
            loop=0,
        )

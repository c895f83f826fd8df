"""What latents hold, as pictures: reconstructions, ways between images, channels moved."""

import numpy as np

from ddpm_jax.reporting import figures
from ddpm_jax.trained.autoencoding import LoadedAutoencoder

COLUMNS = 8
WAYS = 4  # from one image to another
MOST_CHANNELS = 8


def reconstructions(images: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Images in one row, and below each what is left of it; uint8 [rows, columns, C] pixels.

    Args:
      images, made: uint8 [N, H, W, C].
    """
    shown = min(COLUMNS, len(images))
    return figures.grid(np.concatenate([images[:shown], made[:shown]]), columns=shown)


def interpolations(
    loaded: LoadedAutoencoder, images: np.ndarray, labels: np.ndarray | None = None
) -> np.ndarray:
    """From one image to the next, a row each, by latents that are mixed in equal steps.

    Args:
      loaded: the autoencoder.
      images: uint8 [N, H, W, C], at least two.
      labels: int [N], of one that is told classes: a row is of its first image's.
    """
    latents = loaded.encode(images[: 2 * WAYS])
    shares = np.linspace(0, 1, COLUMNS, dtype=np.float32)[:, None, None, None]
    rows = [
        latents[None, k] * (1 - shares) + latents[None, k + 1] * shares
        for k in range(0, len(latents) - 1, 2)
    ]
    told = _told(labels, 2 * np.arange(len(rows)))
    return figures.grid(loaded.decode(np.concatenate(rows), told), columns=COLUMNS)


def traversals(
    loaded: LoadedAutoencoder, images: np.ndarray, labels: np.ndarray | None = None
) -> np.ndarray:
    """The first image with one channel of its latents moved, a row each: by -3 to 3 deviations.

    The channel is moved everywhere alike; a deviation is that of the channel over all images.

    Args:
      loaded: the autoencoder.
      images: uint8 [N, H, W, C].
      labels: int [N], of one that is told classes: the pictures are of the first image's.
    """
    latents = loaded.encode(images)
    std = latents.std(axis=(0, 1, 2))
    shifts = np.linspace(-3, 3, COLUMNS, dtype=np.float32)[:, None, None, None]
    order = np.argsort(-std, kind="stable")[:MOST_CHANNELS]
    rows = []
    for channel in order:
        moved = np.zeros_like(std)
        moved[channel] = std[channel]
        rows.append(latents[:1] + shifts * moved[None, None, None])
    told = _told(labels, np.zeros(len(rows), int))
    return figures.grid(loaded.decode(np.concatenate(rows), told), columns=COLUMNS)


def _told(labels: np.ndarray | None, rows: np.ndarray) -> list[int]:
    """The label of each picture of rows of COLUMNS, from the image that each row begins with."""
    return [] if labels is None else np.repeat(labels[rows], COLUMNS).tolist()

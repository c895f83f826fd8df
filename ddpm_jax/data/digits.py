"""Real handwritten digits, which come with scikit-learn."""

import numpy as np

from ddpm_jax.data.arrays import ArraySource
from ddpm_jax.data.base import DataInfo, check_split

NUM_VALUES = 17  # of a pixel: 0 to 16


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

    check_split(split)
    data = load_digits()
    train, validation = train_test_split(
        np.arange(len(data.target)), test_size=0.2, stratify=data.target, random_state=0
    )
    indices = np.sort(train if split == "train" else validation)
    images = data.images[indices, :, :, None].astype(np.uint8)
    info = DataInfo((8, 8, 1), 10, NUM_VALUES, tuple(str(name) for name in data.target_names))
    return ArraySource(images, data.target[indices], info)

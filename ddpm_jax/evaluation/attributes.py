"""Do samples show what was asked for? For data whose attributes can be read back from pixels."""

from collections.abc import Callable, Mapping

import numpy as np


def agreement(
    images: np.ndarray,
    wanted: Mapping[str, np.ndarray],
    describe: Callable[[np.ndarray], Mapping[str, int] | None],
) -> tuple[float, dict[str, float]]:
    """The share of images that show all that was wanted, and the share for each attribute alone.

    Args:
      images: uint8 [N, H, W, C].
      wanted: attributes by name, int [N].
      describe: the attributes of an image, at least those of `wanted`; None for an image that
        cannot be read, which then shows nothing of what was wanted.

    Raises:
      ValueError: for no attributes, or not one value of each for every image.
    """
    if not wanted or any(np.shape(values) != (len(images),) for values in wanted.values()):
        raise ValueError(
            f"need attributes [{len(images)}], got "
            f"{ {name: np.shape(values) for name, values in wanted.items()} }"
        )
    descriptions = [describe(image) for image in images]
    right = {
        name: np.array(
            [f is not None and f[name] == v for f, v in zip(descriptions, values, strict=True)]
        )
        for name, values in wanted.items()
    }
    together = np.all([*right.values()], axis=0)
    return float(together.mean()), {name: float(one.mean()) for name, one in right.items()}

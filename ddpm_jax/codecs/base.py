"""What every codec is."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.codecs.scaling import to_float
from ddpm_jax.errors import UserError


class Codec(NamedTuple):
    """Between 8-bit images and the space that a diffusion runs in, on the host.

    Attributes:
      encode: (images uint8 [..., H, W, C], num_values=256) -> x_0, [..., *shape]; the pixels take
        the values 0 to num_values - 1.
      decode: x_0 [..., *shape] -> images uint8 [..., H, W, C] of 256 values; what lies outside is
        clipped.
      shape: of one x_0.
      dtype: of x_0: float32, or int32 of one of whole numbers.
      mask: a mask of pixels [H, W, 1] -> the mask of x_0 that leaves nothing of it out; None where
        both have the same places.
    """

    encode: Callable[..., np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int, ...]
    dtype: Any = np.float32
    mask: Callable[[np.ndarray], np.ndarray] | None = None

    def encode_batch(
        self, stored: Mapping[str, np.ndarray], num_values: int = 256
    ) -> dict[str, np.ndarray]:
        """A batch of examples as a network is to see them.

        Args:
          stored: by name, as a source has them: "image" [B, H, W, C], or of what is no image "x0",
            floats [B, ...] that need no codec; values [B]; tokens of texts, integers [B, L]; other
            images [B, H, W, C].
          num_values: that the pixels of "image" take.

        Returns:
          The same names, x_0 as "x0": [B, *shape], values and tokens int32, other images
          `to_float`.

        Raises:
          UserError: for an x0 of floats where x_0 is of whole numbers.
        """
        if "x0" in stored:
            if not np.can_cast(stored["x0"].dtype, self.dtype, "same_kind"):
                raise UserError(
                    f"these data are {stored['x0'].dtype} numbers, and the values of pixels are "
                    "needed; choose data with images"
                )
            x0 = stored["x0"].astype(self.dtype)
        else:
            x0 = self.encode(stored["image"], num_values)
        others = {
            name: array.astype(np.int32) if array.ndim < 3 else to_float(array)
            for name, array in stored.items()
            if name not in ("image", "x0")
        }
        return {"x0": x0, **others}

"""The images that a pipeline is given, as its program takes them."""

from typing import NamedTuple

import numpy as np

from ddpm_jax.interop.pipeline_program import Networks

Size = tuple[int, int]


class Given(NamedTuple):
    """What is given beside texts; as of `Pipeline.sample`, None for what is not."""

    init_image: np.ndarray | None = None
    mask: np.ndarray | None = None
    control: np.ndarray | None = None
    latents: np.ndarray | None = None

    def size(self, factor: int) -> Size | None:
        """(height, width) in pixels of the image to begin with, or of the ControlNet's; or None."""
        for image in (self.init_image, self.control):
            if image is not None:
                unit = 1 if image.dtype == np.uint8 else factor
                return image.shape[-3] * unit, image.shape[-2] * unit
        return None


def arrays(networks: Networks, num: int, size: Size, given: Given) -> dict[str, np.ndarray]:
    """The arrays [num, ...] of what is given, by name.

    Raises:
      ValueError: for an array of another shape or type.
    """
    below = (size[0] // networks.factor, size[1] // networks.factor, networks.channels)
    made: dict[str, np.ndarray] = {}

    def of_each(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if array.shape not in (shape, (num, *shape)):
            raise ValueError(
                f"{name}: need {list(shape)}, or {num} of them, got {list(array.shape)}"
            )
        return np.broadcast_to(array, (num, *shape))

    init_image, mask, control, latents = given
    if init_image is not None:
        wanted = (*size, 3) if init_image.dtype == np.uint8 else below
        image = of_each("init_image", init_image, wanted)
        as_float = image / np.float32(127.5) - 1 if image.dtype == np.uint8 else image
        made["init_image"] = np.asarray(as_float, np.float32)
    if mask is not None:
        if mask.dtype != bool:
            raise ValueError(f"mask: need bool, true where it is drawn anew, got {mask.dtype}")
        made["mask"] = of_each("mask", mask, (*size, 1))
    if control is not None:
        if control.dtype != np.uint8:
            raise ValueError(f"control: need uint8, 0 to 255, got {control.dtype}")
        made["control"] = of_each("control", control, (*size, 3)).astype(np.float32) / 255
    if latents is not None:
        if latents.shape != (num, *below):
            raise ValueError(
                f"latents: need {[num, *below]} for {num} prompts of {size[0]}x{size[1]} "
                f"pixels, got {list(latents.shape)}"
            )
        made["latents"] = np.asarray(latents, np.float32)
    return made

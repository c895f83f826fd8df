"""The images that a pipeline is given, as its program takes them."""

import numpy as np

from ddpm_jax.interop.pipeline_program import Networks


def images(
    networks: Networks,
    num: int,
    size: tuple[int, int],
    init_image: np.ndarray | None,
    mask: np.ndarray | None,
    control: np.ndarray | None,
    latents: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """The arrays [num, ...] of what is given beside texts, checked; as of `Pipeline.sample`."""
    below = (size[0] // networks.factor, size[1] // networks.factor, networks.channels)
    arrays: dict[str, np.ndarray] = {}

    def of_each(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if array.shape not in (shape, (num, *shape)):
            raise ValueError(
                f"{name}: need {list(shape)}, or {num} of them, got {list(array.shape)}"
            )
        return np.broadcast_to(array, (num, *shape))

    if init_image is not None:
        wanted = (*size, 3) if init_image.dtype == np.uint8 else below
        image = of_each("init_image", init_image, wanted)
        as_float = image / np.float32(127.5) - 1 if image.dtype == np.uint8 else image
        arrays["init_image"] = np.asarray(as_float, np.float32)
    if mask is not None:
        if mask.dtype != bool:
            raise ValueError(f"mask: need bool, true where it is drawn anew, got {mask.dtype}")
        arrays["mask"] = of_each("mask", mask, (*size, 1))
    if control is not None:
        if control.dtype != np.uint8:
            raise ValueError(f"control: need uint8, 0 to 255, got {control.dtype}")
        image = of_each("control", control, (*size, 3))
        arrays["control"] = image.astype(np.float32) / 255
    if latents is not None:
        if latents.shape != (num, *below):
            raise ValueError(
                f"latents: need {[num, *below]} for {num} prompts of {size[0]}x{size[1]} "
                f"pixels, got {list(latents.shape)}"
            )
        arrays["latents"] = np.asarray(latents, np.float32)
    return arrays

"""What a pipeline is asked for must fit together: said before anything is computed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ddpm_jax.interop.pipeline_images import Given, Size
from ddpm_jax.interop.pipeline_program import Networks


class Guidance(NamedTuple):
    """How strongly prompts steer.

    Attributes:
      scale: of guidance; 1 is unguided.
      rescale: how far the output is scaled back.
    """

    scale: float
    rescale: float

    @property
    def guided(self) -> bool:
        """The network is asked about the negative prompts too."""
        return self.scale != 1 or self.rescale > 0


def texts(prompts: str | Sequence[str]) -> list[str]:
    """Prompts as a list. Raises ValueError for none, or what is no text."""
    listed = [prompts] if isinstance(prompts, str) else list(prompts)
    if not listed or not all(isinstance(text, str) for text in listed):
        raise ValueError("prompts: need one text at least")
    return listed


def against(negative: str | Sequence[str] | None, num: int) -> list[str] | None:
    """A negative prompt for each of `num` prompts; None for none at all.

    Raises:
      ValueError: for neither one nor `num` of them.
    """
    listed = [negative] if isinstance(negative, str) else list(negative or ())
    if len(listed) not in (0, 1, num):
        raise ValueError(
            f"negative_prompts: need one for all, or one for each of {num} prompts, got "
            f"{len(listed)}"
        )
    return listed * (num if len(listed) == 1 else 1) or None


def guidance(scale: float, rescale: float, negative: Sequence[str] | None) -> Guidance:
    """The guidance that is asked for.

    Raises:
      ValueError: for numbers out of range, or negative prompts that nothing reads.
    """
    if not np.isfinite(scale):
        raise ValueError(f"guidance_scale={scale}: need a finite number")
    if not 0 <= rescale <= 1:
        raise ValueError(f"guidance_rescale={rescale}: need 0 to 1")
    made = Guidance(scale, rescale)
    if not made.guided and any(negative or ()):
        raise ValueError(
            "negative_prompts: without guidance (guidance_scale=1) nothing steers away from "
            "them; set another guidance_scale, or leave them out"
        )
    return made


def beginning(networks: Networks, given: Given, strength: float | None) -> float:
    """How far the image to begin with is noised, in (0, 1]; 1 without one.

    Raises:
      ValueError: for an image that is missing, or something of it that nothing reads.
    """
    image, mask = given.init_image, given.mask
    if networks.completes and (mask is None or image is None or image.dtype != np.uint8):
        raise ValueError(
            "this network completes images: give init_image, uint8, and a mask that is true "
            "where it is to be drawn"
        )
    if mask is not None and image is None:
        raise ValueError("mask: no image to complete; give init_image too")
    if image is None:
        if strength is not None:
            raise ValueError(f"strength={strength}: no image to begin with; give init_image too")
        return 1.0
    return float(strength) if strength is not None else 0.8 if mask is None else 1.0


def control(networks: Networks, given: Given, scale: float = 1.0, guess_mode: bool = False) -> None:
    """Raises ValueError for a ControlNet without its image, or what only a ControlNet reads."""
    if not np.isfinite(scale):
        raise ValueError(f"control_scale={scale}: need a finite number")
    if networks.controlnet is None:
        for name, there in (
            ("control", given.control is not None),
            ("control_scale", scale != 1),
            ("guess_mode", guess_mode),
        ):
            if there:
                raise ValueError(f"{name}: this pipeline has no ControlNet; leave it out")
    elif given.control is None:
        raise ValueError("control: this pipeline has a ControlNet; give the image that it reads")


def scores(networks: Networks, prompted: float | None, against: float | None) -> dict[str, float]:
    """How well an image is to look, as SDXL's refiner reads it, and what is steered away from.

    Raises:
      ValueError: for scores that this network does not read, or no finite numbers.
    """
    made = {}
    for name, value, default in (
        ("aesthetic_score", prompted, 6.0),
        ("negative_aesthetic_score", against, 2.5),
    ):
        if value is not None and not networks.scored:
            raise ValueError(f"{name}={value}: only SDXL's refiner reads it; leave it out")
        made[name] = default if value is None else float(value)
        if not np.isfinite(made[name]):
            raise ValueError(f"{name}={value}: need a finite number")
    return made


def size(networks: Networks, asked: Size | None, given: Given, default: Size) -> Size:
    """(height, width): what is asked for, that of a given image, or the default.

    Raises:
      ValueError: for what the network's latents do not divide.
    """
    factor = networks.factor
    own = None if asked else given.size(factor)
    height, width = asked or own or default
    if any(n < factor or n % factor for n in (height, width)):
        lower = tuple(max(n // factor, 1) * factor for n in (height, width))
        whose = "size=" if own is None else "the image that is given has the size "
        raise ValueError(
            f"{whose}{height}x{width}: need multiples of {factor}, such as {lower[0]}x{lower[1]}"
        )
    return height, width

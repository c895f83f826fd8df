"""What of a task is otherwise for a model of latents: what it sees, and what it keeps."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import coding
from ddpm_jax.codecs import Codec
from ddpm_jax.errors import UserError
from ddpm_jax.trained.tasks import Task


def check(c: ConfigDict, task: Task) -> None:
    """Raises UserError for a task that needs pixels, of a model that has latents."""
    if not coding.has_latents(c):
        return
    if task.observed is not None:
        name = "colourise" if task.colourise is not None else "upscale"
        raise UserError(f"{name}: pixels are observed, and this model has latents; leave it out")
    if task.clip is not None:
        raise UserError("clip: a CLIP sees pixels, and this model has latents; leave it out")


def decoded(codec: Codec, task: Task) -> Callable[[np.ndarray], np.ndarray]:
    """From x_0 to images, in which what a task keeps is as it was given.

    What is kept of latents comes back nearly as it was, so its pixels are put over it.
    """
    if task.inpaint is None or codec.mask is None:
        return codec.decode
    kept, mask = task.inpaint

    def decode(x0: np.ndarray) -> np.ndarray:
        return np.where(np.asarray(mask) > 0, codec.decode(x0), kept)

    return decode

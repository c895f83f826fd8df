"""Named key streams: what is folded into a key beside the counts that are folded into it.

A key is folded with a count (the step, the place in the batch, a sampler's step) for each thing
that is counted. What is drawn once beside them has a number that no count reaches, and all of those
numbers stand here, so that no two draws ever share a key.
"""

import zlib
from typing import NamedTuple

import jax
import numpy as np


class Stream(NamedTuple):
    """A number that is folded into one kind of key.

    Attributes:
      parent: the key, by what is counted under it: "run" (training steps), "step" (nothing: it is
        split), "batch" (places in the batch), "sampler" (a sampler's step and what it counts
        within it), "sample" (the image's own key).
      number: in [0, 2**32), beyond any count there.
    """

    parent: str
    number: int


# The noise of validation, the same at every validation of a run.
VALIDATION = Stream("run", 2**32 - 1)
# What a draw of times shares between the examples of a batch.
SHARED = Stream("batch", 2**32 - 1)
# Where in its cell a pixel lies (dequantisation).
CELLS = Stream("step", 2**32 - 2)
# The noise of the small images that a model is trained to enlarge.
SMALL_IMAGES = Stream("step", 2**32 - 3)
# How an example is moved before it is learned from.
AUGMENTATION = Stream("step", 2**32 - 4)
# The latents of an image, of the law that an autoencoder says.
LATENTS = Stream("step", 2**32 - 5)
# What a projection draws after a step of a sampler, and after all of Langevin's updates of a level.
PROJECTION = Stream("sampler", 2**31 - 1)
LEVEL_PROJECTION = Stream("sampler", 2**31 - 2)
# The embedding of an image that a prior draws, beside the image that is drawn by it.
PRIOR = Stream("sample", 2**31 - 1)

ALL = (
    VALIDATION,
    SHARED,
    CELLS,
    SMALL_IMAGES,
    AUGMENTATION,
    LATENTS,
    PROJECTION,
    LEVEL_PROJECTION,
    PRIOR,
)


def enlarging(height: int) -> Stream:
    """The draws of a model that enlarges images to this height, from an image's own key.

    Models of one cascade share a seed, and the noise of one must not begin as another's did.
    """
    return Stream("sample", 2**32 - 1 - height)


def fold(key: jax.Array, stream: Stream) -> jax.Array:
    """The stream's own key, from a scalar or [B] keys."""
    number = np.uint32(stream.number)
    if key.ndim == 0:
        return jax.random.fold_in(key, number)
    return jax.vmap(jax.random.fold_in, (0, None))(key, number)


def named(key: jax.Array, name: str) -> jax.Array:
    """A key by a name that the user chose, a condition's or a player's: it depends on no other."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))

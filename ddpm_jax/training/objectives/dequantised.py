"""Training on the density of pixels instead of their lattice."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import likelihood
from ddpm_jax.training.step import Batch, Extra, Objective, Outcome


def dequantised(objective: Objective, levels: int) -> Objective:
    """The same objective on pixels that are spread evenly over their cells, anew in each step.

    The noise is drawn on the device, for each example from the step's key and its place in the
    batch, as every draw: a resumed run sees what an uninterrupted one sees.

    Args:
      objective: of batches whose "image" is [B, ...] in [-1, 1].
      levels: the number of values that a pixel takes.

    Raises:
      ValueError: for fewer than 2 levels.
    """
    likelihood.check_levels(levels)

    def outcome(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Outcome:
        # No other draw of the objective folds this number into this key.
        key_cells = jax.random.fold_in(key, jnp.uint32(2**32 - 2))
        image = likelihood.dequantise(key_cells, batch["image"], levels)
        return objective.outcome(params, batch | {"image": image}, key, train, extra)

    return dataclasses.replace(objective, outcome=outcome)

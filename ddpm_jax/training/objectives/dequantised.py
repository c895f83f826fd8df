"""Training on the density of pixels instead of their lattice."""

import dataclasses
from typing import Any

import jax

from ddpm_jax import streams
from ddpm_jax.diffusion import likelihood
from ddpm_jax.training.objectives.base import Batch, Extra, Objective, Outcome, places


def dequantised(objective: Objective, levels: int) -> Objective:
    """The same objective on pixels spread evenly over their cells, drawn again in each step.

    The noise is drawn on the device, for each example from the step's key and its place in the
    batch, as every draw: a resumed run sees what an uninterrupted one sees.

    Args:
      objective: of batches whose "x0" is [B, ...] in [-1, 1].
      levels: the number of values that a pixel takes.

    Raises:
      ValueError: for fewer than 2 levels.
    """
    likelihood.check_levels(levels)

    def spread(batch: Batch, key: jax.Array) -> jax.Array:
        key_cells = streams.fold(key, streams.CELLS)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key_cells, places(batch))
        return likelihood.dequantise(keys, batch["x0"], levels)

    def seen(batch: Batch, key: jax.Array, train: bool) -> Batch:
        return batch | {"x0": spread(batch, key)}

    def outcome(
        params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra, **trees: Any
    ) -> Outcome:
        return objective(params, seen(batch, key, train), key, train, extra, **trees)

    def draws(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Any:
        x0 = {"x0": spread(batch, key)}
        inner = objective.draws
        return x0 | (inner(params, batch | x0, key, train, extra) if inner else {})

    halves = objective.halves and objective.halves.of_batch(seen)
    return dataclasses.replace(objective, outcome=outcome, draws=draws, halves=halves)

"""The exponential moving average of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp


def decay_at(step: jax.Array, decay: float, warmup: bool) -> jax.Array:
    """The decay of the update after `step`; with warm-up min(decay, (1 + step) / (10 + step)).

    Without warm-up, the initial weights still make up decay^step of the average.
    """
    step = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step)) if warmup else jnp.float32(decay)


def update(average: Any, params: Any, decay: jax.Array) -> Any:
    """decay average + (1 - decay) params, leaf by leaf."""
    return jax.tree.map(lambda a, p: a + (1 - decay).astype(a.dtype) * (p - a), average, params)

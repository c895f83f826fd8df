"""The training state: everything that a run needs to go on, as one pytree."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddpm_jax.training import guard

# The name of the average that validation, samples and objectives see.
FIRST = "default"


class TrainState(NamedTuple):
    """What a step reads and writes.

    Attributes:
      step: batches consumed, int32 scalar; also the position in the data.
      key: the run key; each step folds `step` into it and never changes it.
      params: the network's parameters.
      ema: {name: moving average of params}; "default" is the first.
      opt_state: the optimiser's.
      extra: what an objective keeps between steps (the losses by which times are drawn), and the
        guard's record.
    """

    step: jax.Array
    key: jax.Array
    params: Any
    ema: dict[str, Any]
    opt_state: Any
    extra: dict[str, Any]


def init_state(
    init_params: Callable[[jax.Array], Any],
    optimizer: optax.GradientTransformation,
    seed: int | jax.Array,
    init_extra: Callable[[Any], dict[str, Any]] = lambda params: {},
    *,
    spike: guard.Spike | None = None,
    average: bool = True,
    averages: Sequence[str] = (),
) -> TrainState:
    """The state at step 0, a pure function of the seed; jit it to place it on a mesh.

    Args:
      init_params: key -> params.
      optimizer: gives the optimiser state.
      seed: of the run.
      init_extra: params -> what the objective keeps between steps, `Objective.init_extra`. The
        guard's record is added to it.
      spike: the step's.
      average: whether the first moving average is kept; False for a step with ema_decay=None.
      averages: names of those kept beside it, the step's.
    """
    key_params, key_run = jax.random.split(jax.random.key(seed))
    params = init_params(key_params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=key_run,
        params=params,
        # Copies: the donated state must not hold one buffer twice.
        ema={
            name: jax.tree.map(jnp.copy, params)
            for name in (*([FIRST] if average else []), *averages)
        },
        opt_state=optimizer.init(params),
        extra=init_extra(params) | {guard.NAME: guard.init(spike)},
    )


def reseeded(state: TrainState, seed: int) -> TrainState:
    """The state with the run key of this seed, which it has already unless the seed has changed."""
    key = jax.random.split(jax.random.key(seed))[1]
    if np.array_equal(jax.random.key_data(key), jax.random.key_data(state.key)):
        return state
    return state._replace(key=jax.device_put(key, state.key.sharding))

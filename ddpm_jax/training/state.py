"""The training state: everything that a run needs to go on, as one pytree."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class TrainState(NamedTuple):
    """What a step reads and writes.

    Attributes:
      step: batches consumed, int32 scalar; also the position in the data.
      key: the run key; each step folds `step` into it and never changes it.
      params: the network's parameters.
      ema: {name: exponential moving average of params}.
      opt_state: the optimiser's.
      extra: what an objective keeps between steps: the losses by which times are drawn.
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
    seed: int,
    init_extra: Callable[[Any], dict[str, Any]] = lambda params: {},
) -> TrainState:
    """The state at step 0, a pure function of the seed; jit it to place it on a mesh.

    Args:
      init_params: key -> params.
      optimizer: gives the optimiser state.
      seed: of the run.
      init_extra: params -> what the objective keeps between steps.
    """
    key_params, key_run = jax.random.split(jax.random.key(seed))
    params = init_params(key_params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=key_run,
        params=params,
        # A copy: the donated state must not hold one buffer twice.
        ema={"default": jax.tree.map(jnp.copy, params)},
        opt_state=optimizer.init(params),
        extra=init_extra(params),
    )


def digest(tree: Any) -> str:
    """sha256 over the leaves of a pytree, sorted by path: path, dtype, shape and bytes of each."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    sha = hashlib.sha256()
    for path, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in leaves):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        sha.update(f"{path} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def digests(state: TrainState) -> dict[str, str]:
    """The digests that final.json holds: of the parameters, of their EMA and of the whole state."""
    return {
        "params_sha256": digest(state.params),
        "ema_sha256": digest(state.ema),
        "state_sha256": digest(state),
    }

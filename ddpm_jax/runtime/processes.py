"""What the processes of one run must agree on; in a single process, nothing happens."""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddpm_jax.errors import UserError


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def of_first(value: int) -> int:
    """The first process's value, in every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))


def all_of(value: bool) -> bool:
    """Whether the value is true in every process."""
    if jax.process_count() == 1:
        return value
    return bool(np.all(multihost_utils.process_allgather(np.asarray(value))))


def all_or_none(act: Callable[[], None], failed: str) -> None:
    """Call `act` in every process; where it fails in one, it fails in all.

    Raises:
      UserError: of this process's `act`, or, if it is another's, `failed`.
    """
    mine: UserError | None = None
    try:
        act()
    except UserError as error:
        mine = error
    if not all_of(mine is None):
        raise mine or UserError(f"{failed}: another process of the run says why")


def wait(what: str) -> None:
    """Return when every process has come here; `what` names the place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def exchanged(name: str, word: str, seconds: float) -> list[str]:
    """What every process says, by its number; for threads beside the training too.

    It goes through the coordinator's store instead of the devices, whose collectives must come in
    one order in all processes.

    Args:
      name: that nothing else is exchanged under.
      word: of this process, short.
      seconds: to wait for the others.

    Raises:
      RuntimeError: where one does not come in time.
    """
    # What multihost_utils uses itself; jax has no public name for it.
    from jax._src import distributed

    client = distributed.global_state.client
    if client is None:
        return [word]
    milliseconds = max(int(seconds * 1000), 1)
    client.key_value_set(f"{name}/{jax.process_index()}", word)
    if is_first():
        keys = [f"{name}/{process}" for process in range(jax.process_count())]
        words = [client.blocking_key_value_get(key, milliseconds) for key in keys]
        client.key_value_set(f"{name}/all", json.dumps(words))
        return words
    return json.loads(client.blocking_key_value_get(f"{name}/all", milliseconds))


def whole(leaf: Any) -> np.ndarray:
    """An array as numpy, all of it in every process, wherever its parts are."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if not leaf.is_fully_replicated:
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        leaf = leaf.addressable_data(0)
    return np.asarray(leaf)


def placed(array: Any, place: jax.sharding.Sharding) -> jax.Array:
    """An array that every process has whole, where it belongs; of numpy's, jax's or of keys."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(placed(jax.random.key_data(array), place))
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, place, lambda index: host[index])


def agreed_stop(mesh: Mesh, wants_stop: Callable[[], bool]) -> Callable[[], bool]:
    """Whether any process was asked to stop, the same answer everywhere; call it once a step.

    The answer is the step before's, so that nobody waits for the devices: with several processes a
    stop comes one step later, in all of them after the same step.

    Args:
      mesh: over the devices of all processes.
      wants_stop: whether this process was asked to.
    """
    if jax.process_count() == 1:
        return wants_stop
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    total = jax.jit(lambda flags: flags.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))
    local = len(mesh.local_devices)
    before: list[jax.Array] = []

    def stop() -> bool:
        mine = np.full(local, wants_stop(), np.int32)
        before.append(total(jax.make_array_from_process_local_data(rows, mine)))
        return len(before) > 1 and bool(before.pop(0).addressable_data(0))

    return stop

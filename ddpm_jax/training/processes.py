"""What the processes of one run must agree on; in a single process, nothing happens."""

import jax
import numpy as np
from jax.experimental import multihost_utils


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


def wait(what: str) -> None:
    """Return when every process has come here; `what` names the place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)

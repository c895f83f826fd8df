"""One process of several that save a large state together: what it grew by, as JSON.

python tests/training/saving_peer.py WORKDIR PORT PROCESS COUNT MEGABYTES
"""

import ctypes
import gc
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.runtime import joining, sharding
from ddpm_jax.runtime.memory import Watermark, host_bytes
from ddpm_jax.training import shard_files
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.state import TrainState

workdir, port, process, count, megabytes = sys.argv[1], *map(int, sys.argv[2:])
LEAVES = 8

with joining.joined(f"localhost:{port}", count, process, 120.0):
    mesh = sharding.make_mesh(1, len(jax.devices()))
    rows = megabytes * 2**20 // 4 // 1024 // LEAVES
    shapes = {f"w{k}": jax.ShapeDtypeStruct((rows, 1024), jnp.float32) for k in range(LEAVES)}
    places = sharding.state_sharding(mesh, shapes)
    # Each value is its place in the leaf, so that a wrong one shows.
    params = {
        name: jax.make_array_from_callback(
            (rows, 1024),
            places[name],
            lambda index: (
                np.arange(rows, dtype=np.float32)[index[0], None]
                + np.arange(1024, dtype=np.float32)[None, index[1]] / 1024
            ),
        )
        for name in shapes
    }
    whole = sharding.replicated(mesh)

    def everywhere(value):
        return jax.make_array_from_callback(value.shape, whole, lambda index: value[index])

    data = everywhere(np.zeros(2, np.uint32))
    step = everywhere(np.zeros((), np.int32))
    state = TrainState(step, jax.random.wrap_key_data(data), params, {}, {}, {})
    with Checkpoints(workdir) as saved:
        saved.save(1, state)  # once before: what it compiles and imports is not the save's
        saved.wait()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        before, mark = host_bytes(), Watermark()
        mark.start()
        saved.save(2, state)
        saved.wait()
        grown = mark.stop() - before
        raw = state._replace(key=data)
        own = sum(array.nbytes for array in shard_files.own(raw, process).values())
        sums = saved.digests(2, state)
    print(json.dumps({"grown": grown, "own": own, "digests": sums}), flush=True)

"""Several processes save a state of which none holds all, with its digests and in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs

from ddpm_jax.runtime import digests, sharding
from ddpm_jax.training.checkpoints import Checkpoints

PEER = Path(__file__).with_name("saving_peer.py")
LEAVES, MEGABYTES = 8, 192


@pytest.mark.wide(6)
@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_a_process_grows_by_its_own_shards(tmp_path, count):
    port = tiny_runs.free_port()
    environment = tiny_runs.environment() | {
        "JAX_NUM_CPU_DEVICES": str(4 // count), "PYTHONPATH": str(tiny_runs.ROOT)
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, PEER, tmp_path, *map(str, (port, k, count, MEGABYTES))],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for k in range(count)
    ]  # fmt: skip
    said = []
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        said.append(json.loads(out.splitlines()[-1]))
    total = MEGABYTES * 2**20
    for one in said:
        assert one["own"] == pytest.approx(total / count, rel=0.01)
        assert one["grown"] <= 1.3 * one["own"]

    # The values of the peers' leaves, on one process: their place in the leaf.
    rows = total // 4 // 1024 // LEAVES
    leaf = np.arange(rows, dtype=np.float32)[:, None] + np.arange(1024, dtype=np.float32) / 1024
    params = {f"w{k}": leaf for k in range(LEAVES)}
    assert said[0]["digests"]["params_sha256"] == digests.digest(params)
    files = sorted(p.name for p in (tmp_path / "checkpoints/2/shards").iterdir())
    assert files == [f"{k}.safetensors" for k in range(count)]

    mesh = sharding.make_mesh(8)
    like = {
        name: jax.ShapeDtypeStruct(one.shape, jnp.float32, sharding=sharding.replicated(mesh))
        for name, one in params.items()
    }
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.verify(2).state_sha256 == said[0]["digests"]["state_sha256"]
        restored = saved.restore_params(2, "raw", {"w3": like["w3"]})
    np.testing.assert_array_equal(restored["w3"], leaf)

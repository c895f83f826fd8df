"""What the benchmark says of memory, of a network that is small enough to know."""

import jax
import pytest
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.commands.benchmark import memory
from ddpm_jax.runtime import sharding


@pytest.mark.wide(5)
def test_bytes_of_residuals_and_of_a_split_state(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 64)
    monkeypatch.setattr(memory, "DIT_B2", {"model": {"num_blocks": 2}})
    told = memory.memory(brief_config())
    # A block more keeps a block's more of each image, unless it is computed again.
    shallow, deep = told["network"], told["dit_b2"]
    assert deep["float32"]["none"]["image"] > 1.5 * shallow["float32"]["none"]["image"]
    assert deep["float32"]["block"]["image"] < 1.2 * shallow["float32"]["block"]["image"]
    for one in told.values():
        for dtype in ("float32", "bfloat16"):
            images = [one[dtype][mode]["image"] for mode in ("none", "block", "full")]
            assert images == sorted(images, reverse=True)
    # Weights in bfloat16 are there once, whatever the batch; and not in a block computed again.
    fixed = deep["bfloat16"]["none"]["fixed"]
    assert fixed > deep["parameters"]
    assert deep["bfloat16"]["block"]["fixed"] < fixed / 2
    shares = [told["network"]["state"]["share"][num] for num in (2, 4, 8)]
    for num, share in zip((2, 4, 8), shares, strict=True):
        built = experiment.build(brief_config(mesh={"data": 1, "fsdp": num}))
        own = sharding.bytes_on_device(built.state_shapes())
        assert share * told["network"]["state"]["bytes"] == pytest.approx(own)
    assert shares == sorted(shares, reverse=True)
    params = jax.tree.leaves(built.state_shapes().params)
    assert shallow["parameters"] == sum(leaf.size for leaf in params)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ddpm_jax.runtime import sharding


@pytest.mark.parametrize(
    ("data", "fsdp", "shape"),
    [(-1, 1, (8, 1)), (-1, 4, (2, 4)), (1, 1, (1, 1)), (3, 2, (3, 2)), (8, 1, (8, 1))],
)
def test_a_mesh_takes_the_first_devices(data, fsdp, shape):
    mesh = sharding.make_mesh(data, fsdp)
    assert mesh.devices.shape == shape
    assert mesh.axis_names == ("data", "fsdp")
    assert list(mesh.devices.flat) == jax.devices()[: data * fsdp if data > 0 else 8]


@pytest.mark.parametrize(
    ("data", "fsdp", "named"),
    [
        (0, 1, "data=0"),
        (-2, 1, "data=-2"),
        (1, 0, "fsdp=0"),
        (-1, 3, "8 devices do not divide by fsdp=3"),
        (9, 1, "9 x 1 devices, there are 8"),
        (4, 4, "4 x 4 devices, there are 8"),
    ],
)
def test_a_mesh_that_cannot_be_is_named(data, fsdp, named):
    with pytest.raises(ValueError, match=named):
        sharding.make_mesh(data, fsdp)


def test_a_batch_is_split_over_every_device():
    mesh = sharding.make_mesh(4, 2)
    batch = {"image": np.arange(32, dtype=np.float32).reshape(16, 2), "label": np.arange(16)}
    placed = sharding.put_batch(batch, sharding.batch_sharding(mesh))
    for name, rows in batch.items():
        np.testing.assert_array_equal(placed[name], rows)
        assert [s.data.shape[0] for s in placed[name].addressable_shards] == [2] * 8


def test_large_leaves_are_split_and_small_ones_copied():
    shapes = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 64, 128), jnp.float32),
        "odd": jax.ShapeDtypeStruct((129, 129), jnp.float32),
        "bias": jax.ShapeDtypeStruct((128,), jnp.float32),
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    placed = sharding.state_sharding(sharding.make_mesh(2, 4), shapes)
    assert placed["kernel"].spec == PartitionSpec(None, None, None, "fsdp")
    assert placed["odd"].spec == placed["bias"].spec == placed["step"].spec == PartitionSpec()
    kernel = jax.device_put(jnp.zeros(shapes["kernel"].shape), placed["kernel"])
    # Each device holds a quarter of it.
    assert {s.data.size for s in kernel.addressable_shards} == {kernel.size // 4}
    alone = sharding.state_sharding(sharding.make_mesh(8, 1), shapes)
    assert all(leaf.spec == PartitionSpec() for leaf in jax.tree.leaves(alone))

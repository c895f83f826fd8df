"""Where arrays live: one mesh with the axes `data` and `fsdp`, on any number of devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ddpm_jax.runtime import leaves

# Smaller leaves cost more to gather than they save.
MIN_FSDP_SIZE = 2**14


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
    """A mesh [data, fsdp] over the first data * fsdp devices; data = -1 takes all that there are.

    Raises:
      ValueError: if the devices do not divide, or there are too few.
    """
    devices = jax.devices()
    if fsdp < 1 or (data < 1 and data != -1):
        raise ValueError(f"need fsdp >= 1 and data >= 1 (or -1 for all), got {data=}, {fsdp=}")
    if data == -1:
        if len(devices) % fsdp:
            raise ValueError(f"{len(devices)} devices do not divide by {fsdp=}")
        data = len(devices) // fsdp
    if data * fsdp > len(devices):
        raise ValueError(f"need {data} x {fsdp} devices, there are {len(devices)}")
    # Auto: under the new default, Explicit, slicing a sharded table is an error.
    return jax.make_mesh(
        (data, fsdp), ("data", "fsdp"), (AxisType.Auto,) * 2, devices=devices[: data * fsdp]
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over every device."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(mesh: Mesh, shapes: Any) -> Any:
    """A sharding for each leaf: large arrays are split along one axis over `fsdp`, the rest copied.

    Args:
      mesh: the mesh.
      shapes: a pytree of arrays or ShapeDtypeStructs.
    """
    fsdp = mesh.shape["fsdp"]

    def of(leaf: Any) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or not divisible or np.prod(leaf.shape) < MIN_FSDP_SIZE:
            return replicated(mesh)
        axis = max(divisible, key=lambda a: leaf.shape[a])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree.map(of, shapes)


def bytes_on_device(shapes: Any) -> int:
    """Bytes of a pytree on one device; of leaves without a sharding, the whole."""

    def of(leaf: Any) -> int:
        place = getattr(leaf, "sharding", None)
        shape = leaf.shape if place is None else place.shard_shape(leaf.shape)
        return int(np.prod(shape)) * leaf.dtype.itemsize

    return sum(of(leaf) for leaf in jax.tree.leaves(shapes))


def undivided(mesh: Mesh, shapes: Any) -> dict[str, int]:
    """{name: bytes} of the arrays of which `fsdp` divides no dimension, the largest first.

    They stay whole on every device, whatever their size; so do those below MIN_FSDP_SIZE.
    """
    fsdp = mesh.shape["fsdp"]
    whole = {
        name: leaf.size * leaf.dtype.itemsize
        for name, leaf in leaves.named(shapes).items()
        if leaf.ndim and all(size % fsdp for size in leaf.shape)
    }
    return dict(sorted(whole.items(), key=lambda item: -item[1]))


def put_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's rows of a global batch, placed on its devices."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}

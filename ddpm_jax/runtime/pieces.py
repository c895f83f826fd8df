"""What each device holds of arrays, and arrays made of that: bits are moved, and nothing else."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# The one axis of a line.
AXIS = "devices"


def line_of(mesh: Mesh) -> Mesh:
    """The devices of a mesh in their order, along one axis."""
    devices = np.array(list(mesh.devices.flat))
    return Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))


def of_each(devices: Sequence[jax.Device], tree: Any) -> list[Any]:
    """The piece of a tree that each of this process's devices holds, as arrays of one device."""
    leaves, form = jax.tree.flatten(tree)
    held = [{s.device: s.data for s in leaf.addressable_shards} for leaf in leaves]
    return [jax.tree.unflatten(form, [one[device] for one in held]) for device in devices]


def whole(own: Sequence[jax.Array], place: NamedSharding) -> jax.Array:
    """The array of which every device has its own copy; `own` are those of this process."""
    return jax.make_array_from_single_device_arrays(own[0].shape, place, list(own))


def in_a_row(own: Sequence[jax.Array], place: NamedSharding) -> jax.Array:
    """The array whose rows are those of one device after the other, along a line."""
    shape = (own[0].shape[0] * place.mesh.size, *own[0].shape[1:])
    return jax.make_array_from_single_device_arrays(shape, place, list(own))


def exchange(line: Mesh, level: int) -> Callable[[jax.Array], jax.Array]:
    """Jitted: each device's rows go to the device whose number differs from its own in bit `level`.

    Args:
      line: a power of two of devices.
      level: of the bit, from 0.
    """
    pairs = [(k, k ^ (1 << level)) for k in range(line.size)]
    rows = PartitionSpec(AXIS)
    return jax.jit(
        jax.shard_map(
            lambda part: jax.lax.ppermute(part, AXIS, pairs),
            mesh=line,
            in_specs=rows,
            out_specs=rows,
        )
    )

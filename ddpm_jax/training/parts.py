"""A batch shown in equal parts: which rows each has, and how what they say is put together."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddpm_jax.runtime import sharding
from ddpm_jax.training.objectives.base import PART, Batch, Part


@dataclasses.dataclass(frozen=True)
class Parts:
    """How a batch is split: every part has equally many rows of each device's own.

    So no row moves from one device to another. Which rows a part has matters to nothing but the
    order of sums: each is drawn for by its place in the whole batch.

    Attributes:
      count: of parts.
      mesh: whose devices split the rows of a batch; None for one device.

    Raises:
      ValueError: for a count below 1.
    """

    count: int = 1
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"need at least one part, got {self.count}")

    @property
    def devices(self) -> int:
        """That split the rows of a batch."""
        return 1 if self.mesh is None else self.mesh.size

    def places(self, number: jax.Array, size: int) -> jax.Array:
        """The places in a batch of `size` rows of those of part `number`, int32 [b].

        Raises:
          ValueError: for a size that does not divide.
        """
        rows = self._rows(size)
        own = number * rows + jnp.arange(rows, dtype=jnp.int32)
        first = jnp.arange(self.devices, dtype=jnp.int32) * (rows * self.count)
        return (first[:, None] + own[None, :]).reshape(-1)

    def part(self, batch: Batch, number: jax.Array) -> Batch:
        """Part `number` of a batch, with its `Part`. Raises ValueError as `places`."""
        (size,) = {len(leaf) for leaf in jax.tree.leaves(batch)}
        rows = self._rows(size)

        def own(leaf: jax.Array) -> jax.Array:
            split = leaf.reshape(self.devices, self.count, rows, *leaf.shape[1:])
            taken = jax.lax.dynamic_index_in_dim(split, number, axis=1, keepdims=False)
            return self._rows_placed(taken.reshape(-1, *leaf.shape[1:]))

        return jax.tree.map(own, batch) | {PART: Part(self.places(number, size), size)}

    def whole(self, values: jax.Array) -> jax.Array:
        """What the parts say of each row, [count, b, ...], in the order of the batch, [B, ...]."""
        rows, shape = values.shape[1] // self.devices, values.shape[2:]
        split = values.reshape(self.count, self.devices, rows, *shape)
        return split.swapaxes(0, 1).reshape(-1, *shape)

    def kept(self, tree: Any) -> Any:
        """A gradient where its parameters are: the sum of parts is as large as they, and no copy.

        So is whatever else has the shapes of a state's leaves.
        """
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, sharding.state_sharding(self.mesh, tree))

    def placed(self, values: jax.Array) -> jax.Array:
        """What parts say of their rows, [count, b], where the rows are."""
        if self.mesh is None:
            return values
        return jax.lax.with_sharding_constraint(values, self._values_sharding())

    def sums_sharding(self, sums: Any) -> Any:
        """The shardings of (gradient, values, ...), as `kept` and `placed` place them."""
        gradient, *values = sums
        own = sharding.state_sharding(self.mesh, gradient) if self.mesh is not None else None
        return type(sums)(own, *[self._values_sharding()] * len(values))

    def _values_sharding(self) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(None, self.mesh.axis_names))

    def _rows(self, size: int) -> int:
        """Of each device in each part."""
        rows, left = divmod(size, self.devices * self.count)
        if left or not rows:
            raise ValueError(
                f"{size} examples do not divide into {self.count} equal parts on each of "
                f"{self.devices} devices"
            )
        return rows

    def _rows_placed(self, rows: jax.Array) -> jax.Array:
        if self.mesh is None:
            return rows
        return jax.lax.with_sharding_constraint(rows, sharding.batch_sharding(self.mesh))


WHOLE = Parts()

"""A training step whose bits are the same on any number of devices.

A compiler rounds a gradient by the shapes of the program that it is in, and otherwise in one of
several devices than in one of a single device. So the batch is split into a fixed number of shards,
each of which goes through one and the same program of one device, and so does the move; what
crosses devices is copied, and never added on the way. This is the one step that is no single
program on accelerators either.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddpm_jax.runtime import compiling, pieces, sharding
from ddpm_jax.training import gradients
from ddpm_jax.training.dispatched import Memory
from ddpm_jax.training.gradients import NO_TREES, Inputs, Sums, Trees
from ddpm_jax.training.objectives.base import PART, Batch, Part
from ddpm_jax.training.parts import Parts
from ddpm_jax.training.plans import Metrics, Plan
from ddpm_jax.training.state import TrainState


class Programs(NamedTuple):
    """What a stage is run by; each is jitted and of one device.

    Attributes:
      see: (state, work, rows of a shard, frozen, its number) -> (gradient, weighted, loss, t,
        weight) of the shard, the gradient as one vector, of what it adds to the batch's.
      move: (state, work, frozen, gradient, values) -> the work; of the batch's gradient, and the
        values of all shards, [shards, b] each. The last stage's is (state, metrics), and the state
        is donated to it.
    """

    see: Any
    move: Any


class Strict:
    """(state, batch) -> (state, metrics), as a plan's program; the state is donated.

    Shard k has rows k b to (k + 1) b of the batch and is seen by the device that holds them. The
    gradients are added in pairs, those in pairs again, and so on: a tree whose lower part is a
    device's own and whose upper part exchanges sums between devices. Every device then makes the
    same move on a whole copy of the state; where the state is split between devices, it is gathered
    before the step and split again after it.

    Args:
      plan: the step.
      shards: in which a batch is seen, a power of two.
      mesh: the devices, of which the shards are a multiple.
      states: the shardings of a state.
      frozen: the trees that objectives need, placed on the mesh.

    Raises:
      ValueError: for shards that are no power of two, or do not divide among the devices; when
        called, for an objective whose batch must be whole or a batch that does not divide.
    """

    def __init__(self, plan: Plan, shards: int, mesh: Mesh, states: Any, frozen: Trees = NO_TREES):
        if shards < 1 or shards & (shards - 1):
            raise ValueError(f"need a power of two of shards, got {shards}")
        if shards % mesh.size:
            raise ValueError(f"{shards} shards do not divide among {mesh.size} devices")
        self._parts, self._states = Parts(shards), states
        self._own = shards // mesh.size  # of each device
        line = pieces.line_of(mesh)
        self._devices = [d for d in line.devices if d.process_index == jax.process_index()]
        self._whole = NamedSharding(line, PartitionSpec())
        self._rows = NamedSharding(line, PartitionSpec(pieces.AXIS))
        self._first = list(line.devices).index(self._devices[0])
        self._programs = [_jitted(plan, k, self._parts) for k in range(len(plan.stages))]
        self._cut = jax.jit(self._cut_rows)
        self._stack = jax.jit(lambda values: [jnp.stack(one) for one in zip(*values, strict=True)])
        self._add = jax.jit(jnp.add, donate_argnums=0)
        self._gather = jax.jit(lambda tree: tree, out_shardings=self._whole)
        self._split = jax.jit(lambda tree: tree, out_shardings=states, donate_argnums=0)
        self._is_split = not all(s.is_fully_replicated for s in jax.tree.leaves(states))
        self._exchanges = [
            pieces.exchange(line, level) for level in range(mesh.size.bit_length() - 1)
        ]
        self._numbers = [
            [
                jax.device_put(np.int32((self._first + i) * self._own + k), device)
                for k in range(self._own)
            ]
            for i, device in enumerate(self._devices)
        ]
        self._frozen = pieces.of_each(self._devices, self._gather(dict(frozen)) if frozen else {})
        self._last: tuple[Any, list[Any]] | None = None

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        states = self._states_of(state)
        shards = [self._cut(rows) for rows in pieces.of_each(self._devices, batch)]
        works: list[Any] = [()] * len(states)
        for programs in self._programs:
            gradient, values = self._seen(programs, states, works, shards)
            works = [
                programs.move(*own)
                for own in zip(states, works, self._frozen, gradient, values, strict=True)
            ]
        after = [state for state, _ in works]
        return self._joined(after), works[0][1]

    def lower(self, state: TrainState, batch: Batch) -> "Lowered":
        """Its programs, lowered for such arrays or shapes on this process's first device."""
        place = jax.sharding.SingleDeviceSharding(self._devices[0])
        size = {len(leaf) for leaf in jax.tree.leaves(batch)}.pop() // self._parts.count

        def on_first(tree: Any) -> Any:
            return jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree
            )

        own, frozen = on_first(state), on_first(self._frozen[0])
        rows = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), batch
        )
        rows, number = on_first(rows), on_first(jax.ShapeDtypeStruct((), jnp.int32))
        stages, kept, work = [], 0, ()
        for programs in self._programs:
            gradient, *values = on_first(
                jax.eval_shape(programs.see, own, work, rows, frozen, number)
            )
            values = [
                jax.ShapeDtypeStruct((self._parts.count, *v.shape), v.dtype, sharding=place)
                for v in values
            ]
            stages.append(
                Programs(
                    programs.see.lower(own, work, rows, frozen, number),
                    programs.move.lower(own, work, frozen, gradient, values),
                )
            )
            # Sums of shards that wait for others of their size, and the one of another device.
            sums = [gradient] * (self._own.bit_length() + 1)
            kept = max(kept, sharding.bytes_on_device((work, sums, values)))
            work = on_first(jax.eval_shape(programs.move, own, work, frozen, gradient, values))
        given = sharding.bytes_on_device((state, batch))
        given += sharding.bytes_on_device(self._frozen[0])
        whole = sharding.bytes_on_device(own) if self._is_split else 0
        return Lowered(stages, self._parts.count, given, kept + whole)

    def _states_of(self, state: TrainState) -> list[Any]:
        """A state on each device; that of the last step is there already."""
        last, self._last = self._last, None
        leaves = jax.tree.leaves(state)
        if last is not None and all(a is b for a, b in zip(leaves, last[0], strict=True)):
            return last[1]
        return pieces.of_each(self._devices, self._gather(state) if self._is_split else state)

    def _joined(self, states: list[Any]) -> Any:
        """The one state that is the same on every device, where a state's leaves belong."""
        if self._is_split:
            return self._split(jax.tree.map(lambda *own: pieces.whole(own, self._whole), *states))
        whole = jax.tree.map(lambda place, *own: pieces.whole(own, place), self._states, *states)
        self._last = jax.tree.leaves(whole), states
        return whole

    def _seen(
        self, programs: Programs, states: list[Any], works: list[Any], shards: list[Any]
    ) -> tuple[list[jax.Array], list[Any]]:
        """The gradient of the batch, and the values of its shards, on each device."""
        trees: list[list[jax.Array]] = [[] for _ in states]
        values: list[list[Any]] = [[] for _ in states]
        for k in range(self._own):
            for i, state in enumerate(states):
                gradient, *own = programs.see(
                    state, works[i], shards[i][k], self._frozen[i], self._numbers[i][k]
                )
                values[i].append(own)
                done = k + 1
                while done % 2 == 0:
                    gradient, done = self._add(trees[i].pop(), gradient), done // 2
                trees[i].append(gradient)
        return self._total([tree.pop() for tree in trees]), self._everywhere(
            [self._stack(own) for own in values]
        )

    def _total(self, sums: list[jax.Array]) -> list[jax.Array]:
        """The sum over all devices, on each, of one vector a device."""
        for level, exchange in enumerate(self._exchanges):
            others = pieces.of_each(self._devices, exchange(pieces.in_a_row(sums, self._rows)))
            for i, (own, other) in enumerate(zip(sums, others, strict=True)):
                above = (self._first + i) >> level & 1
                sums[i] = self._add(other, own) if above else self._add(own, other)
        return sums

    def _everywhere(self, values: list[Any]) -> list[Any]:
        """Rows of every device on each of them."""
        if not self._exchanges:
            return values
        joined = [pieces.in_a_row(own, self._rows) for own in zip(*values, strict=True)]
        return pieces.of_each(self._devices, self._gather(joined))

    def _cut_rows(self, rows: Batch) -> list[Batch]:
        """A device's shards."""
        split = {name: jnp.split(leaf, self._own) for name, leaf in rows.items()}
        return [{name: shards[k] for name, shards in split.items()} for k in range(self._own)]


class Lowered:
    """The lowered programs of a step; as of jax's own, what forecasts and dry runs ask for."""

    def __init__(self, stages: Sequence[Programs], shards: int, given: int, kept: int):
        self._stages, self._shards, self._given, self._kept = stages, shards, given, kept

    def cost_analysis(self) -> dict[str, float]:
        """{"flops": of a step}, the move counted once."""
        flops = 0.0
        for stage in self._stages:
            see, move = ((one.cost_analysis() or {}).get("flops", 0.0) for one in stage)
            flops += self._shards * see + move
        return {"flops": flops}

    def compile(self) -> "Compiled":
        """Compiled for one device, which tells the memory that each needs."""
        memory = [one.compile().memory_analysis() for stage in self._stages for one in stage]
        temp = max(one.temp_size_in_bytes for one in memory)
        return Compiled(Memory(self._given, self._kept + temp))


class Compiled:
    """What is known of a step once it is compiled."""

    def __init__(self, memory: Memory):
        self._memory = memory

    def memory_analysis(self) -> Memory:
        """What a step needs on a device."""
        return self._memory


def _jitted(plan: Plan, k: int, parts: Parts) -> Programs:
    """The programs of stage k."""
    stage, last = plan.stages[k], k == len(plan.stages) - 1

    def before(state: TrainState, work: Any, frozen: Trees) -> tuple[Any, Inputs]:
        work = work if k else plan.begin(state)
        return work, stage.inputs(state, work, frozen)

    def see(state: TrainState, work: Any, rows: Batch, frozen: Trees, number: jax.Array) -> Any:
        inputs = before(state, work, frozen)[1]
        gradients.check_parts(inputs.objective)
        size = parts.count * {len(leaf) for leaf in jax.tree.leaves(rows)}.pop()

        def seen() -> Any:
            shown = rows | {PART: Part(parts.places(number, size), size)}
            gradient, *values = gradients.of_part(gradients.see(inputs, shown))
            return _vector(gradient), *values

        if stage.when is None:
            return seen()
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(seen))
        return jax.lax.cond(stage.when(state), seen, lambda: zeros)

    def move(
        state: TrainState,
        work: Any,
        frozen: Trees,
        gradient: jax.Array,
        values: Sequence[jax.Array],
    ) -> Any:
        work, inputs = before(state, work, frozen)
        sums = Sums(_tree(gradient, inputs.params), *values)
        work = stage.move(state, work, gradients.together(inputs, parts, sums))
        return plan.end(state, work) if last else work

    return Programs(compiling.jit(see), compiling.jit(move, donate_argnums=(0,) if last else ()))


def _vector(tree: Any) -> jax.Array:
    """All numbers of a tree."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def _tree(vector: jax.Array, like: Any) -> Any:
    """The tree of the shapes of `like` whose numbers are those of a vector."""
    leaves, form = jax.tree.flatten(like)
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])
    numbers = jnp.split(vector, ends[:-1])
    shaped = [one.reshape(leaf.shape) for one, leaf in zip(numbers, leaves, strict=True)]
    return jax.tree.unflatten(form, shaped)

"""A training step whose batch the host shows in parts: a program for a part, one for the move.

On CPUs the gradients of convolutions are 18 times slower inside a loop of one program than by
themselves, so the loop is here. On accelerators `plans.in_one_program` has it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax.runtime import compiling, processes, sharding
from ddpm_jax.training import gradients
from ddpm_jax.training.gradients import NO_TREES, Inputs, Sums, Trees
from ddpm_jax.training.objectives.base import Batch
from ddpm_jax.training.parts import Parts
from ddpm_jax.training.plans import Metrics, Plan
from ddpm_jax.training.state import TrainState


class Programs(NamedTuple):
    """What a stage is run by: jitted, lowered or compiled.

    Attributes:
      nothing: (state, work, batch, frozen) -> Sums of no part.
      add: (state, work, batch, frozen, sums, number) -> Sums; the sums are donated.
      move: (state, work, frozen, sums) -> the work; the last stage's the state and metrics, and the
        state is donated to it.
    """

    nothing: Any
    add: Any
    move: Any


class Memory(NamedTuple):
    """Bytes on a device, as XLA's memory_analysis calls them.

    Attributes:
      argument_size_in_bytes: of state, batch and frozen trees.
      temp_size_in_bytes: of what is there besides at most: sums, work, and a program's own.
      output_size_in_bytes, alias_size_in_bytes: none: the new state takes the place of the old one.
    """

    argument_size_in_bytes: int
    temp_size_in_bytes: int
    output_size_in_bytes: int = 0
    alias_size_in_bytes: int = 0


class Dispatched:
    """(state, batch) -> (state, metrics), as a plan's program; the state is donated.

    Args:
      plan: the step.
      parts: in which the batch is shown, with a mesh.
      states: the shardings of a state.
      frozen: the trees that objectives need, placed.

    Raises:
      ValueError: for parts without a mesh; when called, as `gradients.see_in_parts`.
    """

    def __init__(self, plan: Plan, parts: Parts, states: Any, frozen: Trees = NO_TREES):
        if parts.mesh is None:
            raise ValueError("need parts with a mesh, got mesh=None")
        self._frozen, self._parts, self._mesh = dict(frozen), parts, parts.mesh
        whole = sharding.replicated(self._mesh)
        # On the devices once and for all: a step sends nothing but its batch.
        self._numbers = [processes.placed(np.int32(k), whole) for k in range(parts.count)]
        self._programs = [_jitted(plan, k, parts, states) for k in range(len(plan.stages))]

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return _run(self._programs, self._numbers, state, batch, self._frozen)

    def lower(self, state: TrainState, batch: Batch) -> "Lowered":
        """Its programs, lowered for such arrays or shapes."""
        stages: list[Programs] = []
        kept = 0  # bytes of what lies beside the arguments between programs
        work: Any = ()
        for programs in self._programs:
            shown = (state, work, batch, self._frozen)
            sums = jax.eval_shape(programs.nothing, *shown)
            sums = _shapes(sums, self._parts.sums_sharding(sums))
            stages.append(
                Programs(
                    programs.nothing.lower(*shown),
                    programs.add.lower(*shown, sums, self._numbers[0]),
                    programs.move.lower(state, work, self._frozen, sums),
                )
            )
            kept = max(kept, sharding.bytes_on_device((work, sums)))
            work = jax.eval_shape(programs.move, state, work, self._frozen, sums)
            work = _shapes(work, sharding.state_sharding(self._mesh, work))
        given = sharding.bytes_on_device((state, batch, self._frozen))
        return Lowered(stages, self._numbers, self._frozen, given, kept)


class Lowered:
    """The lowered programs of a step; as of jax's own, what benchmarks and dry runs ask for."""

    def __init__(
        self,
        stages: Sequence[Programs],
        numbers: Sequence[jax.Array],
        frozen: Trees,
        given: int,
        kept: int,
    ):
        self._stages, self._numbers, self._frozen = stages, numbers, frozen
        self._given, self._kept = given, kept

    def cost_analysis(self) -> dict[str, float]:
        """{"flops": of a step}."""
        flops = 0.0
        for stage in self._stages:
            costs = [(one.cost_analysis() or {}).get("flops", 0.0) for one in stage]
            flops += costs[0] + len(self._numbers) * costs[1] + costs[2]
        return {"flops": flops}

    def compile(self) -> "Compiled":
        """The programs, compiled."""
        stages = [Programs(*(one.compile() for one in stage)) for stage in self._stages]
        temp = max(one.memory_analysis().temp_size_in_bytes for stage in stages for one in stage)
        return Compiled(stages, self._numbers, self._frozen, Memory(self._given, self._kept + temp))


class Compiled:
    """(state, batch) -> (state, metrics), compiled beforehand."""

    def __init__(
        self,
        stages: Sequence[Programs],
        numbers: Sequence[jax.Array],
        frozen: Trees,
        memory: Memory,
    ):
        self._stages, self._numbers, self._frozen = stages, numbers, frozen
        self._memory = memory

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return _run(self._stages, self._numbers, state, batch, self._frozen)

    def memory_analysis(self) -> Memory:
        """What a step needs on a device."""
        return self._memory


def _run(
    stages: Sequence[Programs],
    numbers: Sequence[jax.Array],
    state: TrainState,
    batch: Batch,
    frozen: Trees,
) -> Any:
    work: Any = ()
    for programs in stages:
        sums = programs.nothing(state, work, batch, frozen)
        for number in numbers:
            sums = programs.add(state, work, batch, frozen, sums, number)
        work = programs.move(state, work, frozen, sums)
    return work


def _jitted(plan: Plan, k: int, parts: Parts, states: Any) -> Programs:
    """The programs of stage k."""
    stage, last = plan.stages[k], k == len(plan.stages) - 1

    def before(state: TrainState, work: Any, frozen: Trees) -> tuple[Any, Inputs]:
        work = work if k else plan.begin(state)
        return work, stage.inputs(state, work, frozen)

    def nothing(state: TrainState, work: Any, batch: Batch, frozen: Trees) -> Sums:
        return gradients.nothing(before(state, work, frozen)[1], batch, parts)

    def add(
        state: TrainState, work: Any, batch: Batch, frozen: Trees, sums: Sums, number: jax.Array
    ) -> Sums:
        inputs = before(state, work, frozen)[1]

        def more() -> Sums:
            return gradients.add(inputs, batch, parts, sums, number)

        return more() if stage.when is None else jax.lax.cond(stage.when(state), more, lambda: sums)

    def move(state: TrainState, work: Any, frozen: Trees, sums: Sums) -> Any:
        work, inputs = before(state, work, frozen)
        work = stage.move(state, work, gradients.together(inputs, parts, sums))
        return plan.end(state, work) if last else parts.kept(work)

    assert parts.mesh is not None
    rows = sharding.batch_sharding(parts.mesh)
    out = (states, sharding.replicated(parts.mesh)) if last else None
    return Programs(
        compiling.jit(nothing, in_shardings=(states, None, rows, None)),
        compiling.jit(add, in_shardings=(states, None, rows, None, None, None), donate_argnums=4),
        compiling.jit(
            move,
            in_shardings=(states, None, None, None),
            out_shardings=out,
            donate_argnums=(0,) if last else (),
        ),
    )


def _shapes(tree: Any, places: Any) -> Any:
    """Shapes on their devices."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        tree,
        places,
    )

"""A training step as what it is made of, and as one program.

A step is a gradient of the batch and a move, for one player or for several one after the other. How
the gradient is come by (of the whole batch, or of its parts) is nothing that a move knows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.training.gradients import NO_TREES, Inputs, Seen, Trees, see_in_parts
from ddpm_jax.training.objectives.base import Batch
from ddpm_jax.training.parts import WHOLE, Parts
from ddpm_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
Step = Callable[..., tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One gradient of the batch, and what is done with it.

    Attributes:
      inputs: (state, work, frozen trees) -> what the gradient is of.
      move: (state, work, what the batch says) -> the work after it.
      when: state -> a bool scalar, whether the stage's gradient is needed; None for always. Where
        it is not, `move` is given zeros.
    """

    inputs: Callable[[TrainState, Any, Trees], Inputs]
    move: Callable[[TrainState, Any, Seen], Any]
    when: Callable[[TrainState], jax.Array] | None = None


class Plan(NamedTuple):
    """A step: a pytree, its work, goes from `begin` through the stages to `end`.

    Attributes:
      begin: state -> the work before the first stage.
      stages: in their order.
      end: (state, work) -> the state after the step, and its metrics.
    """

    begin: Callable[[TrainState], Any]
    stages: tuple[Stage, ...]
    end: Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def in_one_program(plan: Plan, parts: Parts = WHOLE) -> Step:
    """The pure function (state, batch, frozen={}) -> (state, metrics) of a plan.

    Args:
      plan: the step.
      parts: in which each stage is shown the batch; in a loop within the program.
    """

    def train_step(state: TrainState, batch: Batch, frozen: Trees = NO_TREES) -> Any:
        work = plan.begin(state)
        for stage in plan.stages:
            work = stage.move(state, work, _seen(stage, state, work, batch, frozen, parts))
        return plan.end(state, work)

    return train_step


def _seen(
    stage: Stage, state: TrainState, work: Any, batch: Batch, frozen: Trees, parts: Parts
) -> Seen:
    inputs = stage.inputs(state, work, frozen)

    def see() -> Seen:
        return see_in_parts(inputs, batch, parts)

    if stage.when is None:
        return see()
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(see))
    return jax.lax.cond(stage.when(state), see, lambda: zeros)

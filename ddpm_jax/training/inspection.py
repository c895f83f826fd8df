"""One step looked at from inside: what each of its examples and parameters adds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.training import guard
from ddpm_jax.training.objectives.base import Batch, Objective
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import NO_TREES, Trees, gradient, trees_of


def make_inspection(objective: Objective) -> Callable[..., dict[str, Any]]:
    """The pure function (state, batch, frozen={}) -> what that state's step would see.

    It changes nothing.

    Returns:
      loss, t and weight, [B] each as in `Outcome`, with the draws of the step itself; and
      finite_gradient, a bool scalar for each parameter.
    """

    def inspect(state: TrainState, batch: Batch, frozen: Trees = NO_TREES) -> dict[str, Any]:
        key = jax.random.fold_in(state.key, state.step)
        _, history = guard.split(state.extra)
        trees = trees_of(objective, state.ema, frozen)
        _, outcome, grads = gradient(objective, state.params, batch, key, history, trees)
        return {
            "loss": outcome.loss,
            "t": outcome.t,
            "weight": outcome.weight,
            "finite_gradient": jax.tree.map(lambda g: jnp.isfinite(g).all(), grads),
        }

    return inspect


def make_stages(objective: Objective) -> Callable[..., dict[str, Any]]:
    """The pure function (state, batch, frozen={}) -> what that state's step computes, in its order.

    It changes nothing.

    Returns:
      draws, as `Objective.draws` has them, or t and weight where it has none; loss, {"per_example":
      [B], "total": their weighted mean}; and gradient, a tree as the parameters.
    """

    def stages(state: TrainState, batch: Batch, frozen: Trees = NO_TREES) -> dict[str, Any]:
        key = jax.random.fold_in(state.key, state.step)
        _, history = guard.split(state.extra)
        trees = trees_of(objective, state.ema, frozen)
        loss, outcome, grads = gradient(objective, state.params, batch, key, history, trees)
        draws = {"t": outcome.t, "weight": outcome.weight}
        if objective.draws is not None:
            draws = objective.draws(state.params, batch, key, True, history)
        return {
            "draws": draws,
            "loss": {"per_example": outcome.loss, "total": loss.mean()},
            "gradient": grads,
        }

    return stages


def make_update(optimizer: optax.GradientTransformation) -> Callable[[TrainState, Any], Any]:
    """The pure function (state, gradient) -> what is added to the parameters; it changes nothing.

    A function of its own: a gradient that is compiled with it could be rounded by what the
    optimiser is.
    """

    def update(state: TrainState, grads: Any) -> Any:
        return optimizer.update(grads, state.opt_state, state.params)[0]

    return update

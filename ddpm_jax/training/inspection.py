"""One step looked at from inside: what its examples and parameters add, and what it keeps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Literal

from ddpm_jax.training.gradients import (
    NO_TREES,
    Inputs,
    Seen,
    Trees,
    inputs_of,
    see_in_parts,
    trees_of,
)
from ddpm_jax.training.objectives.base import Batch, Objective
from ddpm_jax.training.parts import WHOLE, Parts
from ddpm_jax.training.state import FIRST, TrainState


def make_inspection(objective: Objective, parts: Parts = WHOLE) -> Callable[..., dict[str, Any]]:
    """The pure function (state, batch, frozen={}) -> what that state's step would see.

    It changes nothing.

    Args:
      objective: of the step.
      parts: in which the step is shown its batch; they decide what a network's dropout draws.

    Returns:
      loss, t and weight, [B] each as in `Outcome`, with the draws of the step itself; and
      finite_gradient, a bool scalar for each parameter.
    """

    def inspect(state: TrainState, batch: Batch, frozen: Trees = NO_TREES) -> dict[str, Any]:
        _, (_, outcome, grads) = _seen(objective, state, batch, frozen, parts)
        return {
            "loss": outcome.loss,
            "t": outcome.t,
            "weight": outcome.weight,
            "finite_gradient": jax.tree.map(lambda g: jnp.isfinite(g).all(), grads),
        }

    return inspect


def make_stages(objective: Objective, parts: Parts = WHOLE) -> Callable[..., dict[str, Any]]:
    """The pure function (state, batch, frozen={}) -> what that state's step computes, in its order.

    It changes nothing.

    Args:
      objective, parts: as of `make_inspection`.

    Returns:
      draws, as `Objective.draws` has them, or t and weight where it has none; loss, {"per_example":
      [B], "total": their weighted mean}; and gradient, a tree as the parameters.
    """

    def stages(state: TrainState, batch: Batch, frozen: Trees = NO_TREES) -> dict[str, Any]:
        inputs, (loss, outcome, grads) = _seen(objective, state, batch, frozen, parts)
        draws = {"t": outcome.t, "weight": outcome.weight}
        if objective.draws is not None:
            draws = objective.draws(state.params, batch, inputs.key, True, inputs.extra)
        return {
            "draws": draws,
            "loss": {"per_example": outcome.loss, "total": loss.mean()},
            "gradient": grads,
        }

    return stages


def _seen(
    objective: Objective, state: TrainState, batch: Batch, frozen: Trees, parts: Parts
) -> tuple[Inputs, Seen]:
    """What the gradient of that state's step is of, and what it is."""
    inputs = inputs_of(objective, state, frozen)
    return inputs, see_in_parts(inputs, batch, parts)


def make_update(optimizer: optax.GradientTransformation) -> Callable[[TrainState, Any], Any]:
    """The pure function (state, gradient) -> what is added to the parameters; it changes nothing.

    A function of its own: a gradient that is compiled with it could be rounded by what the
    optimiser is.
    """

    def update(state: TrainState, grads: Any) -> Any:
        return optimizer.update(grads, state.opt_state, state.params)[0]

    return update


def loss_to_trace(
    objective: Objective,
    state: TrainState,
    batch: Batch,
    frozen: Trees = NO_TREES,
    *,
    rows: int | None = None,
) -> tuple[Callable[..., jax.Array], tuple[Any, ...]]:
    """The losses [B] of a training step as a function, and the shapes to trace it with.

    Args:
      objective: whose losses; it may be another than the state's.
      state, batch: shapes or arrays of them.
      frozen: the frozen trees, or their shapes.
      rows: of the batch, in place of its own.

    Returns:
      (params, batch, key, extra, trees) -> losses, and these five.
    """
    params = state.params
    kept = jax.eval_shape(objective.init_extra, params)
    trees = trees_of(objective, {FIRST: params}, frozen)  # an average has the parameters' shapes
    if rows is not None:
        batch = {
            name: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
            for name, leaf in batch.items()
        }

    def losses(params: Any, batch: Batch, key: jax.Array, extra: Any, trees: Trees) -> jax.Array:
        return objective(params, batch, key, True, extra, **trees).loss

    return losses, (params, batch, state.key, kept, trees)


def residual_bytes(function: Callable[..., Any], params: Any, *others: Any) -> int:
    """Bytes that a function keeps for its gradient with respect to `params`, beside its arguments.

    Traced and never computed, so a network of any size is looked at in seconds. It is what the
    program says: a compiler may keep less, where it computes a cheap value again.

    Args:
      function: (params, *others) -> arrays.
      params, others: pytrees of arrays or ShapeDtypeStructs.
    """

    def pullback(params: Any, *others: Any) -> Any:
        return jax.vjp(lambda params: function(params, *others), params)[1]

    # A place on devices is nobody's business here.
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), others)
    jaxpr = jax.make_jaxpr(pullback)(params, *shapes).jaxpr
    residuals = {one for one in jaxpr.outvars if not isinstance(one, Literal)}
    kept = residuals - {*jaxpr.invars, *jaxpr.constvars}
    return sum(one.aval.size * one.aval.dtype.itemsize for one in kept)

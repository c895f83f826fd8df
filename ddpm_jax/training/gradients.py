"""The gradient of a batch: of all of its rows at once, or of its parts one after the other."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.training import guard
from ddpm_jax.training.objectives.base import EMA, PART, Batch, Extra, Objective, Outcome
from ddpm_jax.training.parts import Parts
from ddpm_jax.training.state import FIRST, TrainState

# Trees of parameters by name.
Trees = Mapping[str, Any]
NO_TREES: Trees = MappingProxyType({})


class Inputs(NamedTuple):
    """What a gradient is of, beside the batch.

    Attributes:
      objective: what is minimised.
      params: with respect to them.
      key: the step's, of the whole batch whatever part of it is shown.
      extra: what the objective keeps, as it was before the step.
      trees: those that the objective needs, by name.
    """

    objective: Objective
    params: Any
    key: jax.Array
    extra: Extra
    trees: Trees = NO_TREES


class Seen(NamedTuple):
    """What a batch, or a part of one, says.

    Attributes:
      weighted: the weighted losses, [B].
      outcome: the objective's.
      gradient: what the parameters follow downhill, of the mean over the whole batch. The
        gradients of a batch's parts add up to the batch's.
    """

    weighted: jax.Array
    outcome: Outcome
    gradient: Any


class Sums(NamedTuple):
    """What the parts of a batch have said so far.

    Attributes:
      gradient: the sum of theirs, in float32.
      weighted, loss, t, weight: each part's own, [parts, b]; zeros of those to come.
    """

    gradient: Any
    weighted: jax.Array
    loss: jax.Array
    t: jax.Array
    weight: jax.Array


def trees_of(objective: Objective, average: Trees, frozen: Trees) -> Trees:
    """The trees that an objective needs, by name: TrainState.ema's "default" as "ema", and frozen.

    Raises:
      ValueError: for one that is not there.
    """
    offered = dict(frozen) | ({EMA: average[FIRST]} if FIRST in average else {})
    for name in objective.needs:
        if name not in offered:
            raise ValueError(
                f"the objective needs {name!r}, and there is {[*offered] or 'nothing'}: hand it to "
                "the step with frozen={...}, or keep a moving average for 'ema'"
            )
    return {name: offered[name] for name in objective.needs}


def inputs_of(objective: Objective, state: TrainState, frozen: Trees) -> Inputs:
    """What the gradient of a state's step is of. Raises ValueError as `trees_of`."""
    key = jax.random.fold_in(state.key, state.step)
    _, history = guard.split(state.extra)
    return Inputs(objective, state.params, key, history, trees_of(objective, state.ema, frozen))


def see(inputs: Inputs, batch: Batch) -> Seen:
    """What a batch says; a part of one is shown with its `Part`, as `Parts.part` makes it."""
    objective = inputs.objective

    def weighted_loss(params: Any) -> tuple[jax.Array, Outcome]:
        outcome = objective(params, batch, inputs.key, True, inputs.extra, **inputs.trees)
        return outcome.weight * outcome.loss, outcome

    loss, pullback, outcome = jax.vjp(weighted_loss, inputs.params, has_aux=True)
    size = batch[PART].size if PART in batch else len(loss)
    (grads,) = pullback(jnp.full_like(loss, 1 / size))
    if objective.of_variance is not None:
        # d mean(L²) from the same forward pass; what is not selected is never computed.
        (of_squares,) = pullback(2 * loss / size)
        selected = objective.of_variance(inputs.params)
        grads = jax.tree.map(
            lambda pick, square, plain: square if pick else plain, selected, of_squares, grads
        )
    return Seen(loss, outcome, grads)


def see_in_parts(inputs: Inputs, batch: Batch, parts: Parts) -> Seen:
    """What a batch says, its parts shown one after the other within one program.

    That of `see` up to the order of sums, and but for a network's dropout, which draws other masks.

    Raises:
      ValueError: for an objective whose batch must be whole, or one that does not divide.
    """
    if parts.count == 1:
        return see(inputs, batch)
    if inputs.objective.halves is not None:
        return see_in_two_passes(inputs, batch, parts)

    def one(number: jax.Array, sums: Sums) -> Sums:
        return add(inputs, batch, parts, sums, number)

    sums = jax.lax.fori_loop(0, parts.count, one, nothing(inputs, batch, parts))
    return together(inputs, parts, sums)


def see_in_two_passes(inputs: Inputs, batch: Batch, parts: Parts) -> Seen:
    """As `see_in_parts`, of an objective that compares the rows of its batch with each other.

    Each part's rows are made without keeping what made them; all of them are compared; then each
    part's are made again, for the gradient. One more forward pass than the whole batch takes, and
    the memory of a part beside that of the rows.
    """
    objective = inputs.objective
    halves, params = objective.halves, inputs.params
    assert halves is not None

    def rows_of(params: Any, number: jax.Array) -> Any:
        return halves.rows(params, parts.part(batch, number), inputs.key, True, **inputs.trees)

    def weighted_loss(params: Any, rows: Any) -> tuple[jax.Array, Outcome]:
        outcome = halves.compare(params, rows, inputs.extra)
        return outcome.weight * outcome.loss, outcome

    made = jax.lax.map(lambda number: rows_of(params, number), jnp.arange(parts.count))
    rows = jax.tree.map(lambda leaf: parts.whole(parts.placed(leaf)), made)
    loss, pullback, outcome = jax.vjp(weighted_loss, params, rows, has_aux=True)
    own, wanted = pullback(jnp.full_like(loss, 1 / len(loss)))

    def add_part(number: jax.Array, total: Any) -> Any:
        given = parts.part({"rows": wanted}, number)["rows"]
        _, pull = jax.vjp(lambda params: rows_of(params, number), params)
        return parts.kept(jax.tree.map(lambda sum_, one: sum_ + one, total, pull(given)[0]))

    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), own)
    total = jax.lax.fori_loop(0, parts.count, add_part, parts.kept(wide))
    gradient = jax.tree.map(lambda sum_, leaf: sum_.astype(leaf.dtype), total, params)
    return Seen(loss, outcome, gradient)


def check_parts(objective: Objective) -> None:
    """Raises ValueError for an objective whose parts say nothing by themselves."""
    if objective.halves is not None:
        raise ValueError(
            "this objective compares the rows of its batch, whose parts go by twice within one "
            "program: use plans.in_one_program"
        )
    if objective.remember is None:
        raise ValueError(
            "this objective needs its batch whole: one that can be shown parts says so with "
            "Objective.remember"
        )


def of_part(seen: Seen) -> Sums:
    """What a part says by itself: its gradient in float32 at least, and its values, [b]."""
    gradient = jax.tree.map(
        lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), seen.gradient
    )
    return Sums(gradient, *_values(seen))


def nothing(inputs: Inputs, batch: Batch, parts: Parts) -> Sums:
    """What no part has said yet. Raises ValueError as `see_in_parts`."""
    check_parts(inputs.objective)
    seen = jax.eval_shape(lambda: see(inputs, parts.part(batch, jnp.int32(0))))
    gradient = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)),
        seen.gradient,
    )
    values = [
        parts.placed(jnp.zeros((parts.count, *leaf.shape), leaf.dtype)) for leaf in _values(seen)
    ]
    return Sums(parts.kept(gradient), *values)


def add(inputs: Inputs, batch: Batch, parts: Parts, sums: Sums, number: jax.Array) -> Sums:
    """The sums with what part `number` of the batch says."""
    seen = see(inputs, parts.part(batch, number))
    gradient = jax.tree.map(lambda total, one: total + one, sums.gradient, seen.gradient)
    values = [
        parts.placed(total.at[number].set(one))
        for total, one in zip(sums[1:], _values(seen), strict=True)
    ]
    return Sums(parts.kept(gradient), *values)


def together(inputs: Inputs, parts: Parts, sums: Sums) -> Seen:
    """What the batch says, from the sums over all of its parts."""
    weighted, loss, t, weight = (parts.whole(values) for values in sums[1:])
    assert inputs.objective.remember is not None
    extra = inputs.objective.remember(inputs.params, inputs.extra, t, loss)
    gradient = jax.tree.map(
        lambda total, leaf: total.astype(leaf.dtype), sums.gradient, inputs.params
    )
    return Seen(weighted, Outcome(loss, t, weight, extra), gradient)


def _values(seen: Seen) -> tuple[jax.Array, ...]:
    outcome = seen.outcome
    return seen.weighted, outcome.loss, outcome.t, outcome.weight

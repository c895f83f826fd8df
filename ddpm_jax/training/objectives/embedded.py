"""An objective that sees its batch as frozen networks make it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ddpm_jax.training.objectives.base import Batch, Extra, Objective, Outcome

# (batch, **trees) -> the batch that the objective sees, row by row
See = Callable[..., Batch]


def embedded(
    objective: Objective,
    see: See,
    trees: Sequence[str],
    drawn: Callable[[Batch], Batch] = lambda batch: batch,
) -> Objective:
    """The objective of what frozen trees make of a batch; no gradient reaches them.

    Args:
      objective: what is minimised, of what `see` gives.
      see: (batch, **trees) -> the batch with more entries, or other ones, each row of its own.
      trees: the names of the frozen trees, which are arguments of the step.
      drawn: a batch -> one by which the objective draws what it draws: of the shapes that `see`
        gives, whatever it holds.

    Raises:
      ValueError: for an objective that compares the rows of its batch.
    """
    if objective.halves is not None:
        raise ValueError("need an objective of each row by itself")

    def outcome(
        params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra, **given: Any
    ) -> Outcome:
        own = {name: given[name] for name in objective.needs}
        seen = see(batch, **{name: given[name] for name in trees})
        return objective(params, seen, key, train, extra, **own)

    def draws(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Any:
        assert objective.draws is not None
        return objective.draws(params, drawn(batch), key, train, extra)

    return dataclasses.replace(
        objective,
        outcome=outcome,
        needs=tuple(dict.fromkeys([*objective.needs, *trees])),
        draws=draws if objective.draws is not None else None,
    )

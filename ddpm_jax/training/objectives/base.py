"""What an objective is: the loss of each example of a batch, as a pure function."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# "x0" [B, ...], what is modelled, and whatever else the objective reads: "label", conditions.
Batch = dict[str, jax.Array]
Extra = dict[str, Any]

# The moving average of the parameters, among what an objective may need.
EMA = "ema"


class Outcome(NamedTuple):
    """What an objective says of a batch.

    Attributes:
      loss: [B], of each example.
      t: [B], the times that were drawn; zeros where there are none.
      weight: [B]; the mean of weight times loss is what is minimised. 1 except for times drawn by
        importance.
      extra: what is kept in TrainState.extra after the batch.
    """

    loss: jax.Array
    t: jax.Array
    weight: jax.Array
    extra: Extra


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """What is minimised, and what it keeps between steps. Called as its `outcome`.

    Attributes:
      outcome: (params, batch, key, train, extra, **trees) -> Outcome. Without `train`: no dropout,
        no dropped labels, and times drawn without a history. The trees are those of `needs`.
      init_extra: params -> what is kept in TrainState.extra before the first step.
      of_variance: params -> a tree of bools: leaves that follow the gradient of the squared loss,
        which is that of the estimate's variance; None for no such leaf.
      needs: the trees of parameters that `outcome` takes by keyword beside its own: "ema", the
        moving average, and frozen ones by their names (a teacher). No gradient reaches them. They
        are arguments of the step, so an objective never closes over arrays.
      draws: (params, batch, key, train, extra) -> {name: array or tree}, what `outcome` draws with
        the same arguments, for whoever looks at a step; None where only its t and weight can tell.
    """

    outcome: Callable[..., Outcome]
    init_extra: Callable[[Any], Extra] = lambda params: {}
    of_variance: Callable[[Any], Any] | None = None
    needs: tuple[str, ...] = ()
    draws: Callable[..., dict[str, Any]] | None = None

    def __call__(
        self, params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra, **trees: Any
    ) -> Outcome:
        return self.outcome(params, batch, key, train, extra, **trees)

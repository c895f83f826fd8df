"""What an objective is: the loss of each example of a batch, as a pure function."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# "x0" [B, ...], what is modelled, and whatever else the objective reads: "label", conditions; and
# PART, where these are some of a batch's rows.
Batch = dict[str, Any]
Extra = dict[str, Any]

PART = "part"
# The moving average of the parameters, among what an objective may need.
EMA = "ema"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Part:
    """Which rows of a whole batch the rows of a part are.

    Attributes:
      place: int32 [b], the place of each of them in the batch.
      size: B, the rows of the batch.
    """

    place: jax.Array
    size: int = dataclasses.field(metadata={"static": True})


def places(batch: Batch) -> jax.Array:
    """The place of each row in its whole batch, int32 [b]: what its draws are folded with."""
    part = batch.get(PART)
    return jnp.arange(len(batch["x0"]), dtype=jnp.int32) if part is None else part.place


def dropout_key(key: jax.Array, batch: Batch) -> jax.Array:
    """The key of a network's dropout, which draws for all rows at once: one for each part."""
    return jax.random.fold_in(key, batch[PART].place[0]) if PART in batch else key


class Outcome(NamedTuple):
    """What an objective says of a batch.

    Attributes:
      loss: [B], of each example.
      t: [B], the times that were drawn; zeros where there are none.
      weight: [B]; the mean of weight times loss is what is minimised. 1 except for times drawn by
        importance.
      extra: what is kept in TrainState.extra after the batch; after a part of one, what was before.
    """

    loss: jax.Array
    t: jax.Array
    weight: jax.Array
    extra: Extra


class Halves(NamedTuple):
    """An objective that compares the rows of its batch, as what is done before and after they meet.

    `Objective.outcome` is `compare` of `rows`. So a batch can be shown in parts all the same: each
    part's rows first, then all of them together, then each part again with what its rows are to
    follow. The gradient is the whole batch's.

    Attributes:
      rows: (params, batch, key, train, **trees) -> a tree of arrays [b, ...]; each row of a row
        of the batch alone, and of its place.
      compare: (params, rows of the whole batch, extra) -> Outcome.

    Source: Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited
      setup" (GradCache).
    """

    rows: Callable[..., Any]
    compare: Callable[..., Outcome]

    def of_params(self, change: Callable[[Any], Any]) -> "Halves":
        """The halves that see change(params) in place of the parameters."""
        return Halves(
            lambda params, *args, **trees: self.rows(change(params), *args, **trees),
            lambda params, *args: self.compare(change(params), *args),
        )

    def of_batch(self, change: Callable[[Batch, jax.Array, bool], Batch]) -> "Halves":
        """The halves that see change(batch, key, train) in place of the batch, row by row."""

        def rows(params: Any, batch: Batch, key: jax.Array, train: bool, **trees: Any) -> Any:
            return self.rows(params, change(batch, key, train), key, train, **trees)

        return Halves(rows, self.compare)


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
      remember: (params, extra, t [B], loss [B]) -> what is kept after a batch that was shown in
        parts, from what each of them said, in the order of the batch. None for an objective whose
        batch must be whole: it shares something between its examples, or draws for them by other
        than `places`.
      draws: (params, batch, key, train, extra) -> {name: array or tree}, what `outcome` draws with
        the same arguments, for whoever looks at a step; None where only its t and weight can tell.
      halves: of an objective whose loss of a row is of the whole batch; None for all others.
    """

    outcome: Callable[..., Outcome]
    init_extra: Callable[[Any], Extra] = lambda params: {}
    of_variance: Callable[[Any], Any] | None = None
    needs: tuple[str, ...] = ()
    remember: Callable[[Any, Extra, jax.Array, jax.Array], Extra] | None = None
    draws: Callable[..., dict[str, Any]] | None = None
    halves: Halves | None = None

    def __call__(
        self, params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra, **trees: Any
    ) -> Outcome:
        return self.outcome(params, batch, key, train, extra, **trees)


# From an objective to the one that stands around it.
Wrap = Callable[[Objective], Objective]


def keep(params: Any, extra: Extra, t: jax.Array, loss: jax.Array) -> Extra:
    """`Objective.remember` of an objective that keeps nothing of its batches."""
    return extra

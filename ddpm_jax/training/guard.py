"""Steps whose numbers went wrong: which they are, and a state that they leave as it was."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# The guard's place in TrainState.extra; all the other keys are the objective's.
NAME = "guard"
# What can be wrong with a step, in the order of `Verdict.wrong`.
REASONS = ("loss", "grad_norm", "history", "loss_spike", "grad_norm_spike")

LossRecord = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Spike:
    """A loss or gradient norm that is too large to be learned from: above mean + sigma std.

    Mean and standard deviation are over the steps that were taken, the n-th last with the weight
    (1 - 1/window)^n.

    Attributes:
      sigma: standard deviations, above 0 and finite.
      window: steps, at least 2; nothing is a spike before so many steps were taken.

    Raises:
      ValueError: for a value out of range.
    """

    sigma: float
    window: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"need spike_sigma > 0 and finite, got {self.sigma}")
        if self.window < 2:
            raise ValueError(f"need spike_window >= 2, got {self.window}")


class Verdict(NamedTuple):
    """What the guard says of a step.

    Attributes:
      ok: bool scalar, whether the step is taken.
      record: TrainState.extra["guard"] after it.
      metrics: skipped, 0 or 1; skipped_in_a_row and skipped_total, up to this step; wrong, bool
        [5], which of REASONS; and loss_bound and grad_norm_bound where there is a spike guard, inf
        before its first window.
    """

    ok: jax.Array
    record: LossRecord
    metrics: dict[str, jax.Array]


def init(spike: Spike | None = None) -> LossRecord:
    """The record before the first step: the counts and, of a spike guard, the statistics [2]."""
    counts = {"skipped": jnp.zeros((), jnp.int32), "in_a_row": jnp.zeros((), jnp.int32)}
    # Of the loss and the gradient norm.
    return counts | ({} if spike is None else {"mean": jnp.zeros(2), "std": jnp.zeros(2)})


def split(extra: dict[str, Any]) -> tuple[LossRecord, dict[str, Any]]:
    """TrainState.extra -> (the guard's record, what is the objective's).

    Raises:
      ValueError: where there is no record.
    """
    if NAME not in extra:
        raise ValueError(
            f"TrainState.extra has no {NAME!r} but {[*extra]}: begin with the state of init_state"
        )
    return extra[NAME], {name: kept for name, kept in extra.items() if name != NAME}


def judge(
    record: LossRecord,
    loss: jax.Array,
    grad_norm: jax.Array,
    history: Any,
    *,
    updates: jax.Array,
    spike: Spike | None = None,
) -> Verdict:
    """Whether a step may change the state; known before its update, so that both are one pass.

    A finite norm in float32 is more than finite gradients: it is inf once any |g| is above 1.8e19,
    so behind a finite one Adam's second moments are finite too.

    Args:
      record: the guard's.
      loss, grad_norm: float32 scalars.
      history: what the objective would keep after the step.
      updates: int32 scalar, the steps that were taken so far.
      spike: what counts as a spike; None for nothing.
    """
    wrong = dict.fromkeys(REASONS, jnp.zeros((), bool))
    wrong["loss"], wrong["grad_norm"] = ~jnp.isfinite(loss), ~jnp.isfinite(grad_norm)
    bounds = {}
    statistics = {}
    if spike is not None:
        values = jnp.stack([loss, grad_norm]).astype(jnp.float32)
        warm = updates >= spike.window
        bound = jnp.where(warm, record["mean"] + spike.sigma * record["std"], jnp.inf)
        wrong["loss_spike"], wrong["grad_norm_spike"] = values > bound
        bounds = {"loss_bound": bound[0], "grad_norm_bound": bound[1]}
        statistics = _updated(record, values, updates, spike.window)
    wrong["history"] = ~_finite((history, statistics))
    ok = ~jnp.stack([*wrong.values()]).any()

    skipped = record["skipped"] + ~ok
    in_a_row = jnp.where(ok, 0, record["in_a_row"] + 1)
    metrics = {
        "skipped": (~ok).astype(jnp.int32),
        "skipped_in_a_row": in_a_row,
        "skipped_total": skipped,
        "wrong": jnp.stack([wrong[name] for name in REASONS]),
    }
    kept = keep(ok, statistics, {name: record[name] for name in statistics})
    after = {"skipped": skipped, "in_a_row": in_a_row, **kept}
    return Verdict(ok, after, metrics | bounds)


def keep(ok: jax.Array, new: Any, old: Any) -> Any:
    """The new tree where ok, the old one bit for bit where not, whatever the new one holds."""
    return jax.tree.map(lambda after, before: jax.lax.select(ok, after, before), new, old)


def _updated(record: LossRecord, values: jax.Array, updates: jax.Array, window: int) -> LossRecord:
    """Mean and standard deviation [2] with one more value each, exact from the first one on.

    Source: West 1979, "Updating mean and variance estimates", with weights that fall by
    1 - 1/window a step. A standard deviation instead of a variance, which would overflow at 1.8e19.
    """
    fall = jnp.log1p(jnp.float32(-1 / window))
    weights = window * -jnp.expm1((updates + 1).astype(jnp.float32) * fall)
    share = 1 / jnp.maximum(weights, 1)  # the first value's weight is 1, except for rounding
    away = values - record["mean"]
    return {
        "mean": record["mean"] + share * away,
        "std": jnp.sqrt(1 - share) * jnp.hypot(record["std"], jnp.sqrt(share) * away),
    }


def _finite(tree: Any) -> jax.Array:
    """Whether every number of a tree is."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves] or [jnp.ones((), bool)]).all()

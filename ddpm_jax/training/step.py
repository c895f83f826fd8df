"""The pure training step: gradient, update, moving average."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.training import ema, guard
from ddpm_jax.training.objectives.base import EMA, Batch, Extra, Objective, Outcome
from ddpm_jax.training.state import FIRST, TrainState

# Trees of parameters by name.
Trees = Mapping[str, Any]
NO_TREES: Trees = MappingProxyType({})
Metrics = dict[str, jax.Array]


def gradient(
    objective: Objective,
    params: Any,
    batch: Batch,
    key: jax.Array,
    extra: Extra,
    trees: Trees = NO_TREES,
) -> tuple[jax.Array, Outcome, Any]:
    """The weighted losses [B] of a batch, its outcome, and what the parameters follow downhill."""

    def weighted_loss(params: Any) -> tuple[jax.Array, Outcome]:
        outcome = objective(params, batch, key, True, extra, **trees)
        return outcome.weight * outcome.loss, outcome

    loss, pullback, outcome = jax.vjp(weighted_loss, params, has_aux=True)
    (grads,) = pullback(jnp.full_like(loss, 1 / len(loss)))
    if objective.of_variance is not None:
        # d mean(L²) from the same forward pass; what is not selected is never computed.
        (of_squares,) = pullback(2 * loss / len(loss))
        selected = objective.of_variance(params)
        grads = jax.tree.map(
            lambda pick, square, plain: square if pick else plain, selected, of_squares, grads
        )
    return loss, outcome, grads


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


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule | None = None,
    *,
    ema_decay: float | None = 0.9999,
    ema_warmup: bool = True,
    averages: ema.Shares = ema.NO_SHARES,
    spike: guard.Spike | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The pure function (state, batch, frozen={}) -> (state, metrics); jit it, donating the state.

    A step whose loss, gradient norm or new history is not finite, or that is a `spike`, is skipped:
    it counts as a batch consumed and changes nothing else. state.extra holds the counts, which
    `init_state` put there, beside what the objective keeps.

    Args:
      objective: what is minimised.
      optimizer: moves all parameters.
      learning_rate: the optimiser's, for the metric alone; None leaves the metric out.
      ema_decay: of the moving average; None for a state without one.
      ema_warmup: a smaller decay in the first steps (`ema.decay_at`), so that a short run's
        average is not made of its initial weights.
      averages: those kept beside it, by name, such as `ema.power(0.05)`. As of `init_state`.
      spike: what counts as a spike; None for nothing. As of `init_state`.

    Returns:
      The step. Its third argument has the frozen trees that the objective needs, by name. Metrics:
      loss, grad_norm (before clipping), learning_rate, the sums and counts [4] of the loss by
      quarter of t, and those of `guard.Verdict`.

    Example:
      state = init_state(init_params, optimizer, seed=0)
      train_step = jax.jit(make_train_step(objective, optimizer), donate_argnums=0)
      for batch in batches:
          state, metrics = train_step(state, batch)
    """

    shares = shares_of(ema_decay, ema_warmup, averages)

    def train_step(state: TrainState, batch: Batch, frozen: Trees = NO_TREES) -> Any:
        key = jax.random.fold_in(state.key, state.step)
        record, history = guard.split(state.extra)
        trees = trees_of(objective, state.ema, frozen)
        loss, outcome, grads = gradient(objective, state.params, batch, key, history, trees)
        mean, norm = loss.mean(), optax.tree.norm(grads)
        # The optimiser's own count, which a skipped step leaves as it was.
        taken = state.step - record["skipped"]
        verdict = guard.judge(record, mean, norm, outcome.extra, updates=taken, spike=spike)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = averaged(state.ema, params, taken, shares)
        params, average, opt_state, history = guard.keep(
            verdict.ok,
            (params, average, opt_state, outcome.extra),
            (state.params, state.ema, state.opt_state, history),
        )
        metrics = {
            "loss": mean,
            "grad_norm": norm,
            **rate_metric(learning_rate, taken),
            **by_quarter(outcome.loss, outcome.t, outcome.weight),
            **verdict.metrics,
        }
        extra = history | {guard.NAME: verdict.record}
        return TrainState(state.step + 1, state.key, params, average, opt_state, extra), metrics

    return train_step


def shares_of(decay: float | None, warmup: bool, averages: ema.Shares) -> dict[str, ema.Share]:
    """The averages of a step by name: the first, unless its decay is None, and those beside it."""
    first = {} if decay is None else {FIRST: ema.constant(decay, warmup)}
    return {**first, **averages}


def averaged(average: Trees, params: Any, taken: jax.Array, shares: ema.Shares) -> dict[str, Any]:
    """TrainState.ema after the update that follows `taken` others.

    Raises:
      ValueError: for a state with other averages than the step's: one would stay at its start.
    """
    if average.keys() != shares.keys():
        raise ValueError(
            f"the state keeps the averages {[*average]} and the step has {[*shares]}: begin with "
            "init_state(averages=[...]) of the step's names, and average=False for ema_decay=None"
        )
    return {name: ema.update(tree, params, shares[name](taken)) for name, tree in average.items()}


def rate_metric(learning_rate: optax.Schedule | None, taken: jax.Array) -> Metrics:
    """{"learning_rate": of the update that follows `taken` others}; {} without a schedule."""
    if learning_rate is None:
        return {}
    return {"learning_rate": jnp.asarray(learning_rate(taken), jnp.float32)}


def make_validation_step(objective: Objective) -> Callable[..., Metrics]:
    """(params, batch with a "mask", key, frozen={}) -> sums and counts [4] of the loss by quarter.

    The parameters are the average's: they are what an objective gets that needs "ema".
    """

    def validation_step(
        params: Any, batch: Batch, key: jax.Array, frozen: Trees = NO_TREES
    ) -> Metrics:
        trees = trees_of(objective, {FIRST: params}, frozen)
        outcome = objective(params, batch, key, False, {}, **trees)
        return by_quarter(outcome.loss, outcome.t, batch["mask"] * outcome.weight)

    return validation_step


def by_quarter(
    loss: jax.Array, t: jax.Array, weight: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Sums and counts of loss [B] over t in (0, 1/4], (1/4, 1/2], (1/2, 3/4] and (3/4, 1].

    An example counts as its weight [B] (1 if None): 0 or 1 of a mask, 1 / (T p) by importance.
    """
    # In float32, XLA's 750 / 1000 is 0.75000006: the end of a quarter still belongs to it.
    quarter = jnp.clip(jnp.ceil(t * 4 - 1e-5).astype(jnp.int32) - 1, 0, 3)
    member = (quarter[:, None] == jnp.arange(4)[None, :]).astype(loss.dtype)
    if weight is not None:
        member = member * weight.astype(loss.dtype)[:, None]
    return {
        "quarter_loss_sum": (loss[:, None] * member).sum(axis=0),
        "quarter_count": member.sum(axis=0),
    }

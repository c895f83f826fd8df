"""The pure training step: gradient, update, moving average."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.training import ema, guard, plans
from ddpm_jax.training.gradients import NO_TREES, Inputs, Seen, Trees, inputs_of, trees_of
from ddpm_jax.training.objectives.base import Batch, Objective
from ddpm_jax.training.parts import WHOLE, Parts
from ddpm_jax.training.plans import Metrics, Plan, Stage, Step
from ddpm_jax.training.state import FIRST, TrainState


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule | None = None,
    *,
    ema_decay: float | None = 0.9999,
    ema_warmup: bool = True,
    averages: ema.Shares = ema.NO_SHARES,
    spike: guard.Spike | None = None,
    parts: Parts = WHOLE,
) -> Step:
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
      parts: in which the batch is shown, one after the other, so that a step needs the memory of
        one; the update is that of the whole batch.

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
    plan = make_plan(
        objective,
        optimizer,
        learning_rate,
        ema_decay=ema_decay,
        ema_warmup=ema_warmup,
        averages=averages,
        spike=spike,
    )
    return plans.in_one_program(plan, parts)


def make_plan(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule | None = None,
    *,
    ema_decay: float | None = 0.9999,
    ema_warmup: bool = True,
    averages: ema.Shares = ema.NO_SHARES,
    spike: guard.Spike | None = None,
) -> Plan:
    """The step of `make_train_step` as a plan: one stage."""
    shares = shares_of(ema_decay, ema_warmup, averages)

    def inputs(state: TrainState, work: Any, frozen: Trees) -> Inputs:
        return inputs_of(objective, state, frozen)

    def move(state: TrainState, work: Any, seen: Seen) -> tuple[TrainState, Metrics]:
        record, history = guard.split(state.extra)
        outcome, grads = seen.outcome, seen.gradient
        mean, norm = seen.weighted.mean(), optax.tree.norm(grads)
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

    return Plan(lambda state: (), (Stage(inputs, move),), lambda state, work: work)


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

"""The pure training step: draws, loss, gradient, update, moving average."""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.diffusion import condition_dropout, losses, time_draws
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.time_draws import TimeDraw
from ddpm_jax.training import ema, guard
from ddpm_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Extra = dict[str, Any]
# (network, schedule, x0, t, eps) -> [B]
Loss = Callable[[losses.Network, Schedule, jax.Array, jax.Array, jax.Array], jax.Array]


class Outcome(NamedTuple):
    """What an objective says of a batch.

    Attributes:
      loss: [B], of each example.
      t: [B], the times that were drawn.
      weight: [B]; the mean of weight times loss is what is minimised. 1 but for times drawn by
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
      outcome: (params, batch, key, train, extra) -> Outcome. Without `train`: no dropout, no
        dropped labels, and times drawn without a history.
      init_extra: params -> what is kept in TrainState.extra before the first step.
      of_variance: params -> a tree of bools: leaves that follow the gradient of the squared loss,
        which is that of the estimate's variance; None for no such leaf.
    """

    outcome: Callable[[Any, Batch, jax.Array, bool, Extra], Outcome]
    init_extra: Callable[[Any], Extra] = lambda params: {}
    of_variance: Callable[[Any], Any] | None = None

    def __call__(
        self, params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra
    ) -> Outcome:
        return self.outcome(params, batch, key, train, extra)


class Draws(NamedTuple):
    """What an example's own key decides; each [B, ...], the drops by the condition's name."""

    t: jax.Array
    weight: jax.Array
    eps: jax.Array
    drop: dict[str, jax.Array]


def draw(
    key: jax.Array,
    x0: jax.Array,
    schedule: Schedule,
    *,
    drop_rates: Mapping[str, float] | None = None,
    joint_rate: float = 0.0,
    time_draw: TimeDraw | None = None,
    history: Extra | None = None,
) -> Draws:
    """t, eps and the drops of every example, each from the key of its place in the batch.

    So a draw depends on neither sharding, nor process count, nor what else is in the batch (but
    for what a `time_draw` lets the batch share).
    """
    time_draw = time_draw or time_draws.uniform()

    def one(index: jax.Array) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        key_t, key_eps, key_drop = jax.random.split(jax.random.fold_in(key, index), 3)
        drop = {
            name: jax.random.bernoulli(_named_key(key_drop, name), rate)
            for name, rate in (drop_rates or {}).items()
        }
        if joint_rate:
            every = jax.random.bernoulli(_named_key(key_drop, ""), joint_rate)
            drop = {name: dropped | every for name, dropped in drop.items()}
        return key_t, jax.random.normal(key_eps, x0.shape[1:], x0.dtype), drop

    keys_t, eps, drop = jax.vmap(one)(jnp.arange(x0.shape[0]))
    # No example has this place.
    key_batch = jax.random.fold_in(key, jnp.uint32(2**32 - 1))
    t, weight = time_draw.draw(schedule, keys_t, key_batch, history or {})
    return Draws(t, weight, eps, drop)


def _named_key(key: jax.Array, name: str) -> jax.Array:
    """By name: what is dropped does not depend on what else there is to drop."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def make_objective(
    apply_fn: Callable[..., Any],
    schedule_of: Callable[[Any], Schedule],
    *,
    loss: Loss = losses.simple,
    time_draw: TimeDraw | None = None,
    dropout: Mapping[str, float] | None = None,
    joint_dropout: float = 0.0,
    of_variance: Callable[[Any], Any] | None = None,
) -> Objective:
    """The denoising objective of a network, Ho et al.'s Algorithm 1 up to the gradient.

    Args:
      apply_fn: (variables, x_t, time, conditions, train=, rngs=) -> output.
      schedule_of: params -> the forward process; a constant unless it is learned.
      loss: (network, schedule, x0, t, eps) -> [B], one of `losses` with its options bound.
      time_draw: one of `time_draws`, uniform if None; its history is in TrainState.extra.
      dropout: the conditions that the network is given, names in the batch; each with the
        probability that it is absent in training, independently of the others.
      joint_dropout: the probability that all of them are absent together, on top of that: what
        guidance needs of a model with several conditions.
      of_variance: as in `Objective`.
    """
    time_draw = time_draw or time_draws.uniform()

    def outcome(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Outcome:
        key_examples, key_dropout = jax.random.split(key)
        x0, schedule = batch["image"], schedule_of(params)
        drawn = draw(
            key_examples,
            x0,
            schedule,
            drop_rates=dropout if train else dict.fromkeys(dropout or {}, 0.0),
            joint_rate=joint_dropout if train else 0.0,
            time_draw=time_draw if train else time_draw.validation or time_draw,
            history=extra.get("time_draw"),
        )
        conditions = None
        if dropout:
            masks = [f"{name}_mask" for name in dropout if f"{name}_mask" in batch]
            conditions = condition_dropout.drop(
                {name: batch[name] for name in [*dropout, *masks]}, drawn.drop
            )

        def network(xt: jax.Array, time: jax.Array) -> jax.Array:
            rngs = {"dropout": key_dropout} if train else None
            return apply_fn({"params": params}, xt, time, conditions, train=train, rngs=rngs)

        values = loss(network, schedule, x0, drawn.t, drawn.eps)
        if train and "time_draw" in extra:
            history = time_draw.update(schedule, extra["time_draw"], drawn.t, values)
            extra = extra | {"time_draw": jax.lax.stop_gradient(history)}
        return Outcome(values, drawn.t, drawn.weight, extra)

    def init_extra(params: Any) -> Extra:
        history = time_draw.init(schedule_of(params))
        return {"time_draw": history} if history else {}

    return Objective(outcome, init_extra, of_variance)


def gradient(
    objective: Objective, params: Any, batch: Batch, key: jax.Array, extra: Extra
) -> tuple[jax.Array, Outcome, Any]:
    """The weighted losses [B] of a batch, its outcome, and what the parameters follow downhill."""

    def weighted_loss(params: Any) -> tuple[jax.Array, Outcome]:
        outcome = objective(params, batch, key, True, extra)
        return outcome.weight * outcome.loss, outcome

    loss, pullback, outcome = jax.vjp(weighted_loss, params, has_aux=True)
    (grads,) = pullback(jnp.full_like(loss, 1 / len(loss)))
    if objective.of_variance is not None:
        # d mean(L²) from the same forward pass; what is not selected is never computed.
        (of_squares,) = pullback(2 * loss / len(loss))
        selected = objective.of_variance(params)
        grads = jax.tree.map(
            lambda chosen, square, plain: square if chosen else plain, selected, of_squares, grads
        )
    return loss, outcome, grads


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    ema_decay: float,
    ema_warmup: bool,
    spike: guard.Spike | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The pure function (state, batch) -> (state, metrics); jit it, donating the state.

    A step whose loss, gradient norm or new history is not finite, or that is a `spike`, is skipped:
    it counts as a batch consumed and changes nothing else. state.extra holds the counts:
    {"guard": guard.init(spike)} at first, beside what the objective keeps.

    Metrics: loss, grad_norm (before clipping), learning_rate, the sums and counts [4] of the loss
    by quarter of t, and those of `guard.Verdict`.
    """

    def train_step(state: TrainState, batch: Batch) -> Any:
        key = jax.random.fold_in(state.key, state.step)
        record, history = guard.split(state.extra)
        loss, outcome, grads = gradient(objective, state.params, batch, key, history)
        mean, norm = loss.mean(), optax.tree.norm(grads)
        # The optimiser's own count, which a skipped step leaves as it was.
        taken = state.step - record["skipped"]
        verdict = guard.judge(record, mean, norm, outcome.extra, updates=taken, spike=spike)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema.decay_at(taken, ema_decay, ema_warmup)
        average = {name: ema.update(tree, params, decay) for name, tree in state.ema.items()}
        params, average, opt_state, history = guard.keep(
            verdict.ok,
            (params, average, opt_state, outcome.extra),
            (state.params, state.ema, state.opt_state, history),
        )
        metrics = {
            "loss": mean,
            "grad_norm": norm,
            "learning_rate": jnp.asarray(learning_rate(taken), jnp.float32),
            **by_quarter(outcome.loss, outcome.t, outcome.weight),
            **verdict.metrics,
        }
        extra = history | {guard.NAME: verdict.record}
        return TrainState(state.step + 1, state.key, params, average, opt_state, extra), metrics

    return train_step


def make_validation_step(
    objective: Objective,
) -> Callable[[Any, Batch, jax.Array], dict[str, jax.Array]]:
    """(params, batch with a "mask", key) -> sums and counts [4] of the loss by quarter of t."""

    def validation_step(params: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        outcome = objective(params, batch, key, False, {})
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

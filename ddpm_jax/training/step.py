"""The pure training step: draws, loss, gradient, update, moving average."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.diffusion import losses
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.training import ema
from ddpm_jax.training.state import TrainState

Batch = dict[str, jax.Array]
# (params, batch, key, train) -> (loss [B], t [B])
Objective = Callable[[Any, Batch, jax.Array, bool], tuple[jax.Array, jax.Array]]

NULL_LABEL = -1


class Draws(NamedTuple):
    """What an example's own key decides; each [B, ...]."""

    t: jax.Array
    eps: jax.Array
    drop: jax.Array


def draw(key: jax.Array, x0: jax.Array, num_steps: int, drop_rate: float) -> Draws:
    """t, eps and the label drop of every example, each from the key of its place in the batch.

    So a draw depends on neither sharding, nor process count, nor what else is in the batch.
    """

    def one(index: jax.Array) -> Draws:
        key_t, key_eps, key_drop = jax.random.split(jax.random.fold_in(key, index), 3)
        return Draws(
            losses.uniform_steps(key_t, num_steps),
            jax.random.normal(key_eps, x0.shape[1:], x0.dtype),
            jax.random.bernoulli(key_drop, drop_rate),
        )

    return jax.vmap(one)(jnp.arange(x0.shape[0]))


def make_objective(
    apply_fn: Callable[..., Any],
    schedule: Schedule,
    *,
    prediction: str,
    weight: losses.Weight | None,
    conditional: bool,
    label_dropout: float,
) -> Objective:
    """The denoising objective of a network, Ho et al.'s Algorithm 1 up to the gradient.

    Args:
      apply_fn: (variables, x_t, time, conditions, train=, rngs=) -> output.
      schedule: the forward process.
      prediction, weight: as in `losses.simple`.
      conditional: give the network the batch's labels.
      label_dropout: probability that an example's label becomes "no class" in training.
    """

    def objective(params: Any, batch: Batch, key: jax.Array, train: bool) -> Any:
        key_examples, key_dropout = jax.random.split(key)
        x0 = batch["image"]
        drawn = draw(key_examples, x0, schedule.num_steps, label_dropout if train else 0.0)
        conditions = None
        if conditional:
            conditions = {"label": jnp.where(drawn.drop, NULL_LABEL, batch["label"])}

        def network(xt: jax.Array, time: jax.Array) -> jax.Array:
            rngs = {"dropout": key_dropout} if train else None
            return apply_fn({"params": params}, xt, time, conditions, train=train, rngs=rngs)

        loss = losses.simple(
            network, schedule, x0, drawn.t, drawn.eps, prediction=prediction, weight=weight
        )
        return loss, drawn.t

    return objective


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    ema_decay: float,
    ema_warmup: bool,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The pure function (state, batch) -> (state, metrics); jit it, donating the state.

    Metrics: loss, grad_norm (before clipping), learning_rate, and the sums and counts [4] of the
    loss by quarter of t.
    """

    def train_step(state: TrainState, batch: Batch) -> Any:
        key = jax.random.fold_in(state.key, state.step)

        def mean_loss(params: Any) -> Any:
            loss, t = objective(params, batch, key, True)
            return loss.mean(), (loss, t)

        grads, (loss, t) = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema.decay_at(state.step, ema_decay, ema_warmup)
        average = {name: ema.update(tree, params, decay) for name, tree in state.ema.items()}
        metrics = {
            "loss": loss.mean(),
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": jnp.asarray(learning_rate(state.step), jnp.float32),
            **by_quarter(loss, t),
        }
        state = TrainState(state.step + 1, state.key, params, average, opt_state, state.extra)
        return state, metrics

    return train_step


def make_validation_step(
    objective: Objective,
) -> Callable[[Any, Batch, jax.Array], dict[str, jax.Array]]:
    """(params, batch with a "mask", key) -> sums and counts [4] of the loss by quarter of t."""

    def validation_step(params: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        loss, t = objective(params, batch, key, False)
        return by_quarter(loss, t, batch["mask"])

    return validation_step


def by_quarter(
    loss: jax.Array, t: jax.Array, mask: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Sums and counts of loss [B] over t in (0, 1/4], (1/4, 1/2], (1/2, 3/4] and (3/4, 1]."""
    # In float32, XLA's 750 / 1000 is 0.75000006: the end of a quarter still belongs to it.
    quarter = jnp.clip(jnp.ceil(t * 4 - 1e-5).astype(jnp.int32) - 1, 0, 3)
    member = (quarter[:, None] == jnp.arange(4)[None, :]).astype(loss.dtype)
    if mask is not None:
        member = member * mask.astype(loss.dtype)[:, None]
    return {
        "quarter_loss_sum": (loss[:, None] * member).sum(axis=0),
        "quarter_count": member.sum(axis=0),
    }

"""Training to denoise: Ho et al.'s Algorithm 1, for any loss, draw of times and conditions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ddpm_jax.diffusion import condition_dropout, losses, time_draws
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.time_draws import TimeDraw
from ddpm_jax.training.objectives.base import (
    PART,
    Batch,
    Extra,
    Objective,
    Outcome,
    dropout_key,
)
from ddpm_jax.training.objectives.draws import Draws, draw

# (network, schedule, x0, t, eps) -> [B]
Loss = Callable[[losses.Network, Schedule, jax.Array, jax.Array, jax.Array], jax.Array]


def denoising(
    apply_fn: Callable[..., Any],
    schedule: Schedule | Callable[[Any], Schedule],
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
      schedule: the forward process; params -> it, where it is learned.
      loss: (network, schedule, x0, t, eps) -> [B], one of `losses` with its options bound.
      time_draw: one of `time_draws`, uniform if None; its history is in TrainState.extra.
      dropout: the conditions that the network is given, names in the batch; each with the
        probability that it is absent in training, independently of the others.
      joint_dropout: the probability that all of them are absent together, on top of that: what
        guidance needs of a model with several conditions.
      of_variance: as in `Objective`.
    """
    time_draw = time_draw or time_draws.uniform()

    def schedule_of(params: Any) -> Schedule:
        return schedule if isinstance(schedule, Schedule) else schedule(params)

    def drawn_by(
        key_examples: jax.Array, batch: Batch, path: Schedule, train: bool, extra: Extra
    ) -> Draws:
        return draw(
            key_examples,
            batch["x0"],
            path,
            drop_rates=dropout if train else dict.fromkeys(dropout or {}, 0.0),
            joint_rate=joint_dropout if train else 0.0,
            time_draw=time_draw if train else time_draw.validation or time_draw,
            history=extra.get("time_draw"),
            part=batch.get(PART),
        )

    def draws(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Any:
        key_examples, _ = jax.random.split(key)
        return drawn_by(key_examples, batch, schedule_of(params), train, extra)._asdict()

    def outcome(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Outcome:
        key_examples, key_dropout = jax.random.split(key)
        x0, path = batch["x0"], schedule_of(params)
        drawn = drawn_by(key_examples, batch, path, train, extra)
        conditions = None
        if dropout:
            beside = [f"{name}{end}" for name in dropout for end in condition_dropout.BESIDE]
            names = [*dropout, *(name for name in beside if name in batch)]
            conditions = condition_dropout.drop({name: batch[name] for name in names}, drawn.drop)

        def network(xt: jax.Array, time: jax.Array) -> jax.Array:
            rngs = {"dropout": dropout_key(key_dropout, batch)} if train else None
            return apply_fn({"params": params}, xt, time, conditions, train=train, rngs=rngs)

        values = loss(network, path, x0, drawn.t, drawn.eps)
        if train and PART not in batch:
            extra = remember(params, extra, drawn.t, values)
        return Outcome(values, drawn.t, drawn.weight, extra)

    def remember(params: Any, extra: Extra, t: jax.Array, values: jax.Array) -> Extra:
        if "time_draw" not in extra:
            return extra
        history = time_draw.update(schedule_of(params), extra["time_draw"], t, values)
        return extra | {"time_draw": jax.lax.stop_gradient(history)}

    def init_extra(params: Any) -> Extra:
        history = time_draw.init(schedule_of(params))
        return {"time_draw": history} if history else {}

    return Objective(outcome, init_extra, of_variance, remember=remember, draws=draws)

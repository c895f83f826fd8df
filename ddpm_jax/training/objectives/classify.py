"""Training a classifier of noised images, which guides a diffusion model."""

from collections.abc import Callable
from typing import Any

import jax

from ddpm_jax.diffusion import process
from ddpm_jax.diffusion.guidance import class_log_prob
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.time_draws import TimeDraw
from ddpm_jax.training.objectives.base import (
    PART,
    Batch,
    Extra,
    Objective,
    Outcome,
    dropout_key,
    keep,
)
from ddpm_jax.training.objectives.draws import Draws, draw


def classification(
    apply_fn: Callable[..., Any], schedule: Schedule, *, time_draw: TimeDraw
) -> Objective:
    """-log p(label | x_t) of a classifier, x_t noised on the path of the model that it will guide.

    Args:
      apply_fn: (variables, x_t, time, train=, rngs=) -> logits [B, classes].
      schedule: the path.
      time_draw: one of `time_draws`; without a history.

    Source: Dhariwal & Nichol 2021, section 4.
    """

    def drawn_by(key_examples: jax.Array, batch: Batch, train: bool) -> Draws:
        times = time_draw if train else time_draw.validation or time_draw
        return draw(key_examples, batch["x0"], schedule, time_draw=times, part=batch.get(PART))

    def draws(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Any:
        return drawn_by(jax.random.split(key)[0], batch, train)._asdict()

    def outcome(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Outcome:
        key_examples, key_dropout = jax.random.split(key)
        drawn = drawn_by(key_examples, batch, train)
        rngs = {"dropout": dropout_key(key_dropout, batch)} if train else None

        def network(variables: Any, xt: jax.Array, time: jax.Array) -> jax.Array:
            return apply_fn(variables, xt, time, train=train, rngs=rngs)

        xt = process.add_noise(schedule, batch["x0"], drawn.t, drawn.eps)
        log_prob = class_log_prob(network, params, schedule, batch["label"])
        return Outcome(-log_prob(xt, drawn.t), drawn.t, drawn.weight, extra)

    return Objective(outcome, remember=keep, draws=draws)

"""What is drawn for each example of a batch: its time, its noise, the conditions it loses."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax import streams
from ddpm_jax.diffusion import time_draws
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.time_draws import TimeDraw
from ddpm_jax.training.objectives.base import Extra, Part


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
    drop_rates: Mapping[str, float | jax.Array] | None = None,
    joint_rate: float | jax.Array = 0.0,
    time_draw: TimeDraw | None = None,
    history: Extra | None = None,
    part: Part | None = None,
) -> Draws:
    """t, eps and the drops of every example, each from the key of its place in the batch.

    So a draw depends on neither sharding, nor process count, nor what else is in the batch (but
    for what a `time_draw` lets the batch share). A part of a batch draws what the batch would.

    Args:
      key: of the batch.
      x0: [B, ...], or the rows of a part.
      schedule: the path.
      drop_rates: {condition: the probability that it is absent}.
      joint_rate: the probability that all are.
      time_draw: one of `time_draws`, uniform if None.
      history: what it keeps.
      part: which rows of the batch these are; None for all.
    """
    time_draw = time_draw or time_draws.uniform()

    def keys(place: jax.Array) -> jax.Array:
        return jax.random.split(jax.random.fold_in(key, place), 3)

    def one(place: jax.Array) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        key_t, key_eps, key_drop = keys(place)
        drop = {
            name: jax.random.bernoulli(streams.named(key_drop, name), rate)
            for name, rate in (drop_rates or {}).items()
        }
        if not _is_zero(joint_rate):
            every = jax.random.bernoulli(streams.named(key_drop, ""), joint_rate)
            drop = {name: dropped | every for name, dropped in drop.items()}
        return key_t, jax.random.normal(key_eps, x0.shape[1:], x0.dtype), drop

    keys_t, eps, drop = jax.vmap(one)(jnp.arange(len(x0)) if part is None else part.place)
    if part is not None:
        # Times are drawn for the whole batch, which a draw may spread over it: a number an example.
        keys_t = jax.vmap(lambda place: keys(place)[0])(jnp.arange(part.size))
    shared = streams.fold(key, streams.SHARED)
    t, weight = time_draw.draw(schedule, keys_t, shared, history or {})
    if part is not None:
        t, weight = t[part.place], weight[part.place]
    return Draws(t, weight, eps, drop)


def _is_zero(rate: float | jax.Array) -> bool:
    """Whether a rate is known to be 0; one that is an argument of the program is not known."""
    return not isinstance(rate, jax.Array) and rate == 0

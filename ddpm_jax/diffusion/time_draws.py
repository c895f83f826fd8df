"""Draws of the time t at which each training example is noised.

A `TimeDraw` is a record of pure functions. Example k of a batch is drawn from a key of its own
place (and at most one number that the whole batch shares), so draws do not depend on sharding.
On a discrete schedule every t is a node i / T, i = 1..T; on a continuous one t is in (t_min, 1].
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.schedules import Schedule, time_of_log_snr

# What a draw remembers between steps, a pytree; {} for nothing.
History = dict[str, jax.Array]
Drawn = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class TimeDraw:
    """How times are drawn.

    Attributes:
      draw: (schedule, keys [B], key, history) -> (t [B], weight [B]): `keys` are the examples',
        `key` the batch's. The mean of weight times loss estimates the objective.
      validation: the same objective's times drawn one by one, without a history; None for itself.
      init: schedule -> the history before the first step.
      update: (schedule, history, t [B], loss [B]) -> the history after a step, from the losses
        before their weight.
    """

    draw: Callable[[Schedule, jax.Array, jax.Array, History], Drawn]
    validation: "TimeDraw | None" = None
    init: Callable[[Schedule], History] = lambda schedule: {}
    update: Callable[[Schedule, History, jax.Array, jax.Array], History] = (
        lambda schedule, history, t, loss: history
    )


def uniform(t_min: float = 1e-5) -> TimeDraw:
    """t uniform over the steps 1..T, or over (t_min, 1] on a continuous schedule.

    Args:
      t_min: the smallest time of a continuous schedule, in [0, 1); 1e-5 in Song et al.

    Raises:
      ValueError: for a t_min out of range.

    Source: Ho et al. 2020, Algorithm 1, line 3; Song et al. 2021, appendix C.
    """
    _check_t_min(t_min)

    def one(schedule: Schedule, key: jax.Array) -> jax.Array:
        if schedule.betas is not None:
            return jax.random.randint(key, (), 1, schedule.num_steps + 1) / schedule.num_steps
        return _continuous(jax.random.uniform(key), t_min)

    return _one_by_one(one)


def stratified(t_min: float = 1e-5) -> TimeDraw:
    """Uniform times that fill (0, 1] evenly: t_k = (u + k / B) mod 1, one u for the batch.

    Each t is uniform by itself, and the batch's mean loss has less variance.

    Args:
      t_min: as in `uniform`.

    Raises:
      ValueError: for a t_min out of range.

    Source: Kingma et al. 2021 (VDM), appendix I.1.
    """
    _check_t_min(t_min)

    def draw(schedule: Schedule, keys: jax.Array, key: jax.Array, history: History) -> Drawn:
        size = len(keys)
        u = (jax.random.uniform(key) + jnp.arange(size) / size) % 1
        if schedule.betas is None:
            t = _continuous(u, t_min)
        else:
            t = _node(schedule, jnp.floor(u * schedule.num_steps) + 1)
        return t, jnp.ones_like(t)

    return TimeDraw(draw, validation=uniform(t_min))


def importance(history_size: int = 10, uniform_prob: float = 0.001) -> TimeDraw:
    """Steps in proportion to the root mean square of their last losses, weighted back to uniform.

    p_i ~ sqrt(E[L_i²]) minimises the variance of the estimate; its weight is 1 / (T p_i). Until
    every step has `history_size` losses, steps are uniform. A loss that is not finite is not
    remembered. Discrete schedules only.

    Args:
      history_size: losses kept a step, at least 1; 10 in the paper.
      uniform_prob: share of uniform draws, in (0, 1]; it keeps every weight below its inverse.

    Raises:
      ValueError: for values out of range; from `init` for a continuous schedule.

    Source: Nichol & Dhariwal 2021, equation 18 and section 3.3; uniform_prob: their code.
    """
    if history_size < 1:
        raise ValueError(f"need history_size >= 1, got {history_size=}")
    if not 0 < uniform_prob <= 1:
        raise ValueError(f"need 0 < uniform_prob <= 1, got {uniform_prob=}")

    def init(schedule: Schedule) -> History:
        steps = schedule.num_steps
        return {
            "loss": jnp.zeros((steps, history_size), jnp.float32),
            "count": jnp.zeros(steps, jnp.int32),
        }

    def draw(schedule: Schedule, keys: jax.Array, key: jax.Array, history: History) -> Drawn:
        p = step_probabilities(history, uniform_prob)
        # "high": float32's usual Gumbel noise is too coarse for the steps of small probability.
        index = jax.vmap(lambda k: jax.random.categorical(k, jnp.log(p), mode="high"))(keys)
        return _node(schedule, index + 1), 1 / (len(p) * p[index])

    def update(schedule: Schedule, history: History, t: jax.Array, loss: jax.Array) -> History:
        index = jnp.round(t * schedule.num_steps).astype(jnp.int32) - 1
        return remember(history, index, loss)

    return TimeDraw(draw, validation=uniform(), init=init, update=update)


def step_probabilities(history: History, uniform_prob: float) -> jax.Array:
    """The probabilities [T] of `importance` after such a history {"loss": [T, N], "count": [T]}."""
    loss, count = history["loss"], history["count"]
    moment = jnp.sqrt(jnp.mean(loss**2, axis=1))
    total = moment.sum()
    ready = jnp.all(count >= loss.shape[1]) & (total > 0)
    learned = moment / jnp.where(total > 0, total, 1)
    even = 1 / len(count)
    return jnp.where(ready, (1 - uniform_prob) * learned + uniform_prob * even, even)


def remember(history: History, index: jax.Array, loss: jax.Array) -> History:
    """The history with a batch's losses [B] at steps `index` [B] in place of each step's oldest.

    As if they came one after the other, in the order of the batch; what is not finite is left out.
    """
    kept, count = history["loss"], history["count"]
    steps, size = kept.shape
    index = jnp.where(jnp.isfinite(loss), index, steps)  # beyond the end: dropped below
    same = index[:, None] == index[None, :]
    earlier = jnp.tril(same, -1).sum(axis=1)
    later = same.sum(axis=1) - earlier - 1
    slot = (count.at[index].get(mode="fill", fill_value=0) + earlier) % size
    # Of more than `size` losses at one step the last ones stay: no slot is written twice.
    row = jnp.where(later < size, index, steps)
    # Full counts go round between size and 2 size - 1: they tell the oldest slot, and never wrap.
    total = count.at[index].add(1, mode="drop")
    return {
        "loss": kept.at[row, slot].set(loss.astype(kept.dtype), mode="drop"),
        "count": jnp.where(total >= 2 * size, size + total % size, total),
    }


def log_normal(mean: float = -1.2, std: float = 1.2, t_min: float = 1e-5) -> TimeDraw:
    """The noise-to-signal ratio rho = sigma / alpha is log-normal, whatever the schedule.

    Args:
      mean, std: of log rho; -1.2 and 1.2 in the paper.
      t_min: the smallest time of a continuous schedule; ratios beyond the path's ends are its ends.

    Raises:
      ValueError: for a std that is not above 0, or a t_min out of range.

    Source: Karras et al. 2022, table 1 (P_mean, P_std).
    """
    _check_normal(mean, std)
    _check_t_min(t_min)

    def one(schedule: Schedule, key: jax.Array) -> jax.Array:
        t = time_of_log_snr(schedule, -2 * (mean + std * jax.random.normal(key)))
        if schedule.betas is not None:
            return _node(schedule, jnp.round(t * schedule.num_steps))
        return jnp.clip(t, t_min or jnp.finfo(t.dtype).tiny, 1)

    return _one_by_one(one)


def logit_normal(mean: float = 0.0, std: float = 1.0, t_min: float = 1e-5) -> TimeDraw:
    """logit(t) is normal: most draws in the middle of [0, 1].

    Args:
      mean, std: of log(t / (1 - t)); 0 and 1 in the paper's best run.
      t_min: the smallest time of a continuous schedule.

    Raises:
      ValueError: for a std that is not above 0, or a t_min out of range.

    Source: Esser et al. 2024 (Stable Diffusion 3), section 3.1.
    """
    _check_normal(mean, std)
    _check_t_min(t_min)

    def one(schedule: Schedule, key: jax.Array) -> jax.Array:
        t = jax.nn.sigmoid(mean + std * jax.random.normal(key))
        if schedule.betas is not None:
            return _node(schedule, jnp.floor(t * schedule.num_steps) + 1)
        return jnp.clip(t, t_min or jnp.finfo(t.dtype).tiny, 1)

    return _one_by_one(one)


def _one_by_one(one: Callable[[Schedule, jax.Array], jax.Array]) -> TimeDraw:
    """Each example from its own key, unweighted."""

    def draw(schedule: Schedule, keys: jax.Array, key: jax.Array, history: History) -> Drawn:
        t = jax.lax.stop_gradient(jax.vmap(lambda key: one(schedule, key))(keys))
        return t, jnp.ones_like(t)

    return TimeDraw(draw)


def _continuous(u: jax.Array, t_min: float) -> jax.Array:
    """u in [0, 1) to (t_min, 1]."""
    return t_min + (1 - t_min) * (1 - u)


def _node(schedule: Schedule, index: jax.Array) -> jax.Array:
    """i / T, with i between 1 and T."""
    return jnp.clip(index, 1, schedule.num_steps) / schedule.num_steps


def _check_t_min(t_min: float) -> None:
    if not 0 <= t_min < 1:
        raise ValueError(f"need 0 <= t_min < 1, got {t_min=}")


def _check_normal(mean: float, std: float) -> None:
    if not (math.isfinite(mean) and 0 < std < math.inf):
        raise ValueError(f"need a finite mean and a finite std > 0, got {mean=}, {std=}")

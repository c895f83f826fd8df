"""Learning rates by step: a line up to the peak, then one of several decays.

A decay is a function of the number of updates so far: the share of the peak that it leaves, 1
during the warm-up. All of it is made of jax's operations, so a number may be an argument of the
program, as the members of a group have them; only what is known is checked.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

# (updates so far, int scalar) -> share of the peak, float32 in [0, 1]
Decay = Callable[[Any], jax.Array]


def learning_rate(peak: Any, *, warmup_steps: Any, decay: Decay) -> optax.Schedule:
    """Linear warm-up from 0 to `peak`, and what the decay leaves of it.

    Args:
      peak: greater than 0.
      warmup_steps: at least 0; Ho et al. use 5,000.
      decay: one of this module.

    Raises:
      ValueError: for a value out of range.
    """
    if _known(peak) and peak <= 0:
        raise ValueError(f"need learning_rate > 0, got {peak}")
    if _known(warmup_steps) and warmup_steps < 0:
        raise ValueError(f"need warmup_steps >= 0, got {warmup_steps}")

    def rate(count: Any) -> jax.Array:
        # In the order of operations of optax's schedules: earlier versions trained by these.
        left = 1 - jnp.minimum(count, warmup_steps) / jnp.maximum(warmup_steps, 1)
        return jnp.where(count < warmup_steps, (0.0 - peak) * left + peak, peak) * decay(count)

    return rate


def constant() -> Decay:
    """The peak for ever."""
    return lambda count: jnp.ones((), jnp.float32)


def cosine(*, warmup_steps: Any, num_steps: Any, end: float = 0.0) -> Decay:
    """Half a cosine from the end of the warm-up down to `end` at `num_steps`.

    Args:
      warmup_steps, num_steps: of the run.
      end: share of the peak, 0 to 1.

    Raises:
      ValueError: for an end out of range.

    Source: Loshchilov & Hutter 2017 (SGDR), equation 5, without restarts.
    """
    _check_share(end=end)

    def decay(count: Any) -> jax.Array:
        after, steps = _after(count, warmup_steps, num_steps)
        return (1 - end) * (0.5 * (1 + jnp.cos(jnp.pi * after / steps))) + end

    return decay


def linear(*, warmup_steps: Any, num_steps: Any, end: float = 0.0) -> Decay:
    """A line from the end of the warm-up down to `end` at `num_steps`.

    Args, Raises: as `cosine`.
    """
    _check_share(end=end)

    def decay(count: Any) -> jax.Array:
        after, steps = _after(count, warmup_steps, num_steps)
        return (1 - end) * (1 - after / steps) + end

    return decay


def inverse_sqrt(*, warmup_steps: Any) -> Decay:
    """sqrt(warmup_steps / count) behind the warm-up; without one, 1 / sqrt(count).

    Source: Vaswani et al. 2017, equation 3, whose peak is d_model^-1/2 warmup_steps^-1/2.
    """

    def decay(count: Any) -> jax.Array:
        risen = jnp.maximum(warmup_steps, 1)
        return jnp.sqrt(risen / jnp.maximum(count, risen))

    return decay


def wsd(*, warmup_steps: Any, num_steps: int, share: float = 0.2, end: float = 0.0) -> Decay:
    """Warm-up, stable, decay: the peak until the last `share` of the steps, a line down in these.

    Args:
      warmup_steps, num_steps: of the run; the decay does not begin before the warm-up's end.
      share: of num_steps, above 0 and at most 1.
      end: share of the peak at num_steps, 0 to 1.

    Raises:
      ValueError: for a value out of range.

    Source: Hu et al. 2024 (MiniCPM), section 4; the line and its length, Hägele et al. 2024.
    """
    _check_share(end=end)
    if not 0 < share <= 1:
        raise ValueError(f"need 0 < share <= 1, got {share=}")
    begin = jnp.maximum(num_steps - round(share * num_steps), warmup_steps)
    return linear(warmup_steps=begin, num_steps=num_steps, end=end)


def edm2(*, t_ref: int = 70_000) -> Decay:
    """1 / sqrt(max(count / t_ref, 1)), whatever the warm-up.

    Args:
      t_ref: the step from which the rate falls, at least 1; the paper's networks have 70,000 for
        ImageNet at 512x512 and 35,000 at 64x64, with 2048 images a batch.

    Raises:
      ValueError: for a step below 1.

    Source: Karras et al. 2024 (EDM2), equation 67.
    """
    if t_ref < 1:
        raise ValueError(f"need t_ref >= 1, got {t_ref=}")
    return lambda count: 1 / jnp.sqrt(jnp.maximum(count / t_ref, 1))


def _after(count: Any, warmup_steps: Any, num_steps: Any) -> tuple[jax.Array, Any]:
    """The steps taken of those behind the warm-up, and how many there are."""
    # A run that ends within its warm-up never comes to its decay.
    steps = jnp.maximum(num_steps - warmup_steps, 1)
    return jnp.clip(count - warmup_steps, 0, steps), steps


def _known(number: Any) -> bool:
    """Whether it is a number of this program and no argument of it."""
    return not isinstance(number, jax.Array)


def _check_share(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"need 0 <= {name} <= 1, got {value}")

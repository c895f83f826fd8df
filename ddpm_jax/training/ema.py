"""Moving averages of the parameters, each told by the share that new parameters get in it."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.training import post_hoc

# int32 scalar, the updates taken before this one -> float32 scalar, the share of the parameters
# after it in the average: 1 - beta.
Share = Callable[[jax.Array], jax.Array]
# Averages by name.
Shares = Mapping[str, Share]
NO_SHARES: Shares = MappingProxyType({})
# How names of power-function averages begin.
POWER = "std:"


def power_name(std: float) -> str:
    """The name of a power-function average: "std:0.05"."""
    return f"{POWER}{float(std)!r}"


def std_of(name: str) -> float | None:
    """The relative width of a power-function average of that name; None for another average.

    Raises:
      ValueError: for a width that is no number.
    """
    return float(name.removeprefix(POWER)) if name.startswith(POWER) else None


def decay_at(step: jax.Array, decay: float, warmup: bool) -> jax.Array:
    """The decay of the update after `step`; with warm-up min(decay, (1 + step) / (10 + step)).

    Without warm-up, the initial weights still make up decay^step of the average.
    """
    step = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step)) if warmup else jnp.float32(decay)


def constant(decay: float, warmup: bool = False) -> Share:
    """The share of an exponential average: 1 - `decay_at`."""
    return lambda taken: 1 - decay_at(taken, decay, warmup)


def power(std: float) -> Share:
    """The share of a power-function average of a relative width (Karras et al. 2024, eq. 127).

    Update t, counted from 1, has beta_t = (1 - 1/t)^(gamma + 1), so the first one takes the
    parameters whole and nothing is left of the initial ones. After t updates, that of update i has
    the weight (i^(gamma + 1) - (i - 1)^(gamma + 1)) / t^(gamma + 1).

    Args:
      std: the standard deviation of the average's profile over its length, above 0 and below
        `post_hoc.LARGEST_STD`.

    Raises:
      ValueError: for a std out of range.
    """
    exponent = post_hoc.exponent(std) + 1

    def share(taken: jax.Array) -> jax.Array:
        # Not 1 - beta: late in a run beta is so near 1 that float32 would lose the difference.
        return -jnp.expm1(exponent * jnp.log1p(-1 / (taken.astype(jnp.float32) + 1)))

    return share


def update(average: Any, params: Any, share: jax.Array) -> Any:
    """(1 - share) average + share params, leaf by leaf."""
    return jax.tree.map(lambda a, p: a + share.astype(a.dtype) * (p - a), average, params)

"""Optimisers and learning-rate schedules by name, all optax's."""

import jax
import jax.numpy as jnp
import optax


def learning_rate(peak: float, *, warmup_steps: int, decay: str, num_steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to `peak`, then constant, or half a cosine down to 0 at `num_steps`.

    Args:
      peak: greater than 0.
      warmup_steps: at least 0; Ho et al. use 5,000.
      decay: "constant" or "cosine".
      num_steps: of the run; the cosine ends there.

    Raises:
      ValueError: for a value out of range or an unknown decay.
    """
    if peak <= 0:
        raise ValueError(f"need learning_rate > 0, got {peak}")
    if warmup_steps < 0:
        raise ValueError(f"need warmup_steps >= 0, got {warmup_steps}")
    if decay == "constant":
        after: optax.Schedule = optax.constant_schedule(peak)
    elif decay == "cosine":
        # A run that ends within its warm-up never comes to the cosine.
        after = optax.cosine_decay_schedule(peak, max(num_steps - warmup_steps, 1))
    else:
        raise ValueError(f"decay must be constant or cosine, got {decay!r}")
    if warmup_steps == 0:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup_steps), after], [warmup_steps]
    )


def traced_learning_rate(
    peak: jax.Array, *, warmup_steps: jax.Array, decay: str, num_steps: int
) -> optax.Schedule:
    """`learning_rate` of numbers that are arguments of the program; equal up to rounding.

    optax's schedules compare their numbers in Python, so that these must be constants there.

    Args:
      peak: float scalar.
      warmup_steps: integer scalar.
      decay, num_steps: as in `learning_rate`, which also checks the values.
    """

    def rate(count: jax.Array) -> jax.Array:
        after = jnp.maximum(count - warmup_steps, 0)
        height = jnp.float32(1)
        if decay == "cosine":
            share = after / jnp.maximum(num_steps - warmup_steps, 1)
            height = (1 + jnp.cos(jnp.pi * jnp.minimum(share, 1))) / 2
        rising = count / jnp.maximum(warmup_steps, 1)
        return peak * jnp.where(count < warmup_steps, rising, height)

    return rate


def adam(
    learning_rate: optax.Schedule,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam, without weight decay. Source: Kingma & Ba 2015.

    Args:
      learning_rate: the schedule.
      beta1, beta2, epsilon: the moments' decays and the denominator's offset.
    """
    return optax.adam(learning_rate, b1=beta1, b2=beta2, eps=epsilon)


def adamw(
    learning_rate: optax.Schedule,
    *,
    weight_decay: float | jax.Array = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay. Source: Loshchilov & Hutter 2019.

    Args:
      learning_rate, beta1, beta2, epsilon: as in `adam`.
      weight_decay: at least 0, multiplied by the learning rate; may be an argument of the program.

    Raises:
      ValueError: for a negative weight decay, where it is known.
    """
    if not isinstance(weight_decay, jax.Array) and weight_decay < 0:
        raise ValueError(f"need weight_decay >= 0, got {weight_decay=}")
    return optax.adamw(learning_rate, b1=beta1, b2=beta2, eps=epsilon, weight_decay=weight_decay)


def clipped(
    optimizer: optax.GradientTransformation, grad_clip: float
) -> optax.GradientTransformation:
    """The optimiser behind a clip of the gradient's global norm.

    Args:
      optimizer: any.
      grad_clip: the largest norm; 0 for no clipping.

    Raises:
      ValueError: for a negative norm.
    """
    if grad_clip < 0:
        raise ValueError(f"need grad_clip >= 0, got {grad_clip=}")
    if not grad_clip:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(grad_clip), optimizer)

"""Optimisers and learning-rate schedules by name, all optax's."""

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


def optimizer(
    name: str,
    rate: optax.Schedule,
    *,
    weight_decay: float = 0.0,
    grad_clip: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam or AdamW behind a clip of the global gradient norm.

    Args:
      name: "adam" or "adamw".
      rate: the learning-rate schedule.
      weight_decay: AdamW's, decoupled; must be 0 for Adam, which has none.
      grad_clip: the largest global norm; 0 for no clipping.
      beta1, beta2, epsilon: the moments' decays and the denominator's offset.

    Raises:
      ValueError: for an unknown name, a weight decay with Adam, or a negative value.
    """
    if name not in ("adam", "adamw"):
        raise ValueError(f"optimizer must be adam or adamw, got {name!r}")
    if name == "adam" and weight_decay:
        raise ValueError(f"adam has no weight decay, got {weight_decay=}; use adamw")
    if weight_decay < 0 or grad_clip < 0:
        raise ValueError(f"need weight_decay, grad_clip >= 0, got {weight_decay=}, {grad_clip=}")
    moments = {"b1": beta1, "b2": beta2, "eps": epsilon}
    if name == "adam":
        update = optax.adam(rate, **moments)
    else:
        update = optax.adamw(rate, **moments, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(grad_clip), update) if grad_clip else update

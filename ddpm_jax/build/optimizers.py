"""config.optim: the optimiser and its learning rate."""

from collections.abc import Callable

import optax
from ml_collections import ConfigDict

from ddpm_jax.config.choose import choose, keywords, parameters
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.errors import UserError
from ddpm_jax.training import optimizers

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optimizers.adam,
    "adamw": optimizers.adamw,
}


def optimizer(
    c: ConfigDict, own: Own = NONE
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """The learning rate of config.optim, and the optimiser behind a clip of the gradient's norm.

    One of the user's own is `(learning_rate, **options) -> optax.GradientTransformation`; it is
    given weight_decay if it takes it.

    Raises:
      UserError: for an unknown name, an option that it does not have, or a weight decay that
        nothing takes.
      ValueError: for a value out of range.
    """
    o = c.optim
    rate = optimizers.learning_rate(
        o.learning_rate, warmup_steps=o.warmup_steps, decay=o.decay, num_steps=c.train.num_steps
    )
    build = choose("optim.name", o.name, OPTIMIZERS, own)
    if o.weight_decay and "weight_decay" not in parameters(build):
        raise UserError(
            f"config.optim.weight_decay={o.weight_decay}: {o.name} has no weight decay; set 0, or "
            "optim.name=adamw"
        )
    return rate, _moved_by(c, own, rate)


def traced_optimizer(
    c: ConfigDict, own: Own = NONE
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """The same where learning_rate, warmup_steps and weight_decay are arguments of the program."""
    o = c.optim
    rate = optimizers.traced_learning_rate(
        o.learning_rate, warmup_steps=o.warmup_steps, decay=o.decay, num_steps=c.train.num_steps
    )
    return rate, _moved_by(c, own, rate)


def _moved_by(c: ConfigDict, own: Own, rate: optax.Schedule) -> optax.GradientTransformation:
    """The optimiser with this learning rate, behind the clip."""
    o = c.optim
    build = choose("optim.name", o.name, OPTIMIZERS, own)
    options = keywords(
        "optim.options",
        o.options,
        build,
        name=f"optimiser {o.name}",
        positional=("learning_rate",),
        provided={"weight_decay": o.weight_decay},
        choices=OPTIMIZERS,
    )
    made = build(rate, **options)
    if not isinstance(made, optax.GradientTransformation):
        raise UserError(
            f"config.optim.name={o.name}: need a function that returns an "
            f"optax.GradientTransformation, it returned {type(made).__name__}"
        )
    return optimizers.clipped(made, o.grad_clip)

"""config.optim: the optimiser, its learning rate, and what it leaves alone."""

from collections.abc import Callable

import jax
import optax
from ml_collections import ConfigDict

from ddpm_jax.config.choose import choose, keywords, parameters
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.errors import UserError
from ddpm_jax.training import freezing, learning_rates, optimizers

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optimizers.adam,
    "adamw": optimizers.adamw,
    "lion": optimizers.lion,
    "muon": optimizers.muon,
    "adafactor": optimizers.adafactor,
    "sgd": optimizers.sgd,
}
DECAYS: dict[str, Callable[..., learning_rates.Decay]] = {
    "constant": learning_rates.constant,
    "cosine": learning_rates.cosine,
    "linear": learning_rates.linear,
    "inverse_sqrt": learning_rates.inverse_sqrt,
    "wsd": learning_rates.wsd,
    "edm2": learning_rates.edm2,
}


def optimizer(
    c: ConfigDict, own: Own = NONE
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """The learning rate of config.optim, and the optimiser behind a clip of the gradient's norm.

    learning_rate, warmup_steps and weight_decay may be arguments of the program. One of the user's
    own is `(learning_rate, **options) -> optax.GradientTransformation`; it is given weight_decay if
    it takes it. What is frozen is clipped by nobody, and has no moments.

    Raises:
      UserError: for an unknown name, an option that it does not have, or a weight decay that
        nothing takes.
      ValueError: for a value out of range.
    """
    o = c.optim
    rate = learning_rate(c)
    build = choose("optim.name", o.name, OPTIMIZERS, own)
    traced = isinstance(o.weight_decay, jax.Array)
    if not traced and o.weight_decay and "weight_decay" not in parameters(build):
        takers = [name for name, one in OPTIMIZERS.items() if "weight_decay" in parameters(one)]
        raise UserError(
            f"config.optim.weight_decay={o.weight_decay}: {o.name} has no weight decay; set 0, or "
            f"optim.name to one of {', '.join(takers)}"
        )
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
    moves = optimizers.clipped(made, o.grad_clip)
    return rate, freezing.optimizer(moves, o.frozen) if o.frozen else moves


def learning_rate(c: ConfigDict) -> optax.Schedule:
    """The learning rate of config.optim by the number of updates. Raises as `optimizer`."""
    o = c.optim
    decay = choose("optim.decay", o.decay, DECAYS)
    options = keywords(
        "optim.decay_options",
        o.decay_options,
        decay,
        name=f"decay {o.decay}",
        provided={"warmup_steps": o.warmup_steps, "num_steps": c.train.num_steps},
        choices=DECAYS,
    )
    return learning_rates.learning_rate(
        o.learning_rate, warmup_steps=o.warmup_steps, decay=decay(**options)
    )


def is_laid_out(decay: str) -> bool:
    """Whether a decay hangs on how many steps there are in all. Raises as `optimizer`."""
    return "num_steps" in parameters(choose("optim.decay", decay, DECAYS))

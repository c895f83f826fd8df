"""config.diffusion: the forward process and what the network predicts of it."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.config.choose import choose, keywords
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion import prediction, schedules
from ddpm_jax.errors import UserError
from ddpm_jax.models import Gamma

DISCRETE: dict[str, Callable[..., Any]] = {
    "linear": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "cosine": schedules.cosine,
    "sigmoid": schedules.sigmoid,
}
CONTINUOUS: dict[str, Callable[..., Any]] = {
    "vp_continuous": schedules.vp_continuous,
    "scaled_linear_continuous": schedules.scaled_linear_continuous,
    "cosine_continuous": schedules.cosine_continuous,
    "sigmoid_continuous": schedules.sigmoid_continuous,
    "sub_vp": schedules.sub_vp,
    "ve": schedules.ve,
    "edm": schedules.edm,
    "flow": schedules.flow,
    "linear_gamma": schedules.linear_gamma,
}
# Predictions with options of their own.
OF_OPTIONS: dict[str, Callable[..., prediction.Parameterisation]] = {"edm": prediction.edm}
# A learned schedule is part of the network.
SCHEDULES: dict[str, Callable[..., Any]] = DISCRETE | CONTINUOUS | {"learned": Gamma}


def schedule(c: ConfigDict, own: Own = NONE) -> schedules.Schedule | None:
    """The schedule of config.diffusion; None if it is learned.

    One of the user's own is `(**options) -> Schedule`; it is given num_steps if it takes it.

    Raises:
      UserError: for an unknown name, or an option that the schedule does not have.
      ValueError: for an option's value that does not fit.
    """
    d = c.diffusion
    options = schedule_options(c, own)
    if d.zero_terminal_snr and d.schedule not in DISCRETE:
        raise UserError(
            f"config.diffusion.zero_terminal_snr=True: {d.schedule} has no betas to rescale; set "
            f"False, or a schedule of {', '.join(DISCRETE)}"
        )
    if d.schedule == "learned":
        first_learned(c)
        return None
    built = choose("diffusion.schedule", d.schedule, SCHEDULES, own)(**options)
    if not isinstance(built, schedules.Schedule):
        raise UserError(
            f"config.diffusion.schedule={d.schedule}: need a function that returns a "
            f"diffusion.schedules.Schedule, it returned {type(built).__name__}"
        )
    return schedules.zero_terminal_snr(built) if d.zero_terminal_snr else built


def first_learned(c: ConfigDict) -> schedules.Schedule:
    """The path that a learned schedule of config.diffusion sets out from, its ends being its.

    Raises:
      UserError, ValueError: as `schedule`.
    """
    options = schedule_options(c)
    return schedules.linear_gamma(**{k: v for k, v in options.items() if k.startswith("gamma")})


def schedule_options(c: ConfigDict, own: Own = NONE) -> dict[str, Any]:
    """What the schedule of config.diffusion is called with.

    Raises:
      UserError: for an unknown schedule, or an option that it does not have.
    """
    d = c.diffusion
    return keywords(
        "diffusion.schedule_options",
        d.schedule_options,
        choose("diffusion.schedule", d.schedule, SCHEDULES, own),
        name=f"schedule {d.schedule}",
        provided={"num_steps": d.num_steps},
        hidden=("parent", "name"),
        choices=SCHEDULES,
    )


def parameterisation(c: ConfigDict) -> prediction.Parameterisation:
    """What config.diffusion.prediction names.

    Raises:
      UserError: for an option that the prediction does not have.
      ValueError: for an unknown name, or a sigma_data out of range.
    """
    d = c.diffusion
    if d.prediction not in OF_OPTIONS:
        if d.prediction_options:
            option, value = next(iter(d.prediction_options.items()))
            raise UserError(
                f"config.diffusion.prediction_options.{option}={value!r}: only prediction="
                f"{', '.join(OF_OPTIONS)} has options; leave it out"
            )
        return prediction.parameterisation(d.prediction)
    build = OF_OPTIONS[d.prediction]
    return build(
        **keywords(
            "diffusion.prediction_options",
            d.prediction_options,
            build,
            name=f"prediction {d.prediction}",
        )
    )

"""config.diffusion: the forward process and what the network predicts of it."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.config.choose import choose, keywords
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
# A learned schedule is part of the network.
SCHEDULES: dict[str, Callable[..., Any]] = DISCRETE | CONTINUOUS | {"learned": Gamma}
OPTIONS = (
    "beta_start",
    "beta_end",
    "beta_min",
    "beta_max",
    "sigma_min",
    "sigma_max",
    "shift",
    "gamma_0",
    "gamma_1",
    "max_beta",
)


def schedule(c: ConfigDict) -> schedules.Schedule | None:
    """The schedule of config.diffusion; None if it is learned.

    Raises:
      UserError: for an unknown name, or an option that the schedule does not have.
      ValueError: for an option's value that does not fit.
    """
    d = c.diffusion
    options = schedule_options(c)
    if d.zero_terminal_snr and d.schedule not in DISCRETE:
        raise UserError(
            f"config.diffusion.zero_terminal_snr=True: {d.schedule} has no betas to rescale; set "
            f"False, or a schedule of {', '.join(DISCRETE)}"
        )
    if d.schedule == "learned":
        first_learned(c)
        return None
    if d.schedule in CONTINUOUS:
        return CONTINUOUS[d.schedule](**options)
    built = DISCRETE[d.schedule](num_steps=d.num_steps, **options)
    return schedules.zero_terminal_snr(built) if d.zero_terminal_snr else built


def first_learned(c: ConfigDict) -> schedules.Schedule:
    """The path that a learned schedule of config.diffusion sets out from, its ends being its.

    Raises:
      UserError, ValueError: as `schedule`.
    """
    return schedules.linear_gamma(**schedule_options(c))


def schedule_options(c: ConfigDict) -> dict[str, Any]:
    """The options of the schedule that config.diffusion sets.

    Raises:
      UserError: for an unknown schedule, or an option that it does not have.
    """
    build = choose("diffusion.schedule", c.diffusion.schedule, SCHEDULES)
    fields = {name: name for name in OPTIONS} | {"cosine_s": "s"}
    return keywords("diffusion", c.diffusion, fields, build, SCHEDULES, "schedule")


def parameterisation(c: ConfigDict) -> prediction.Parameterisation:
    """What config.diffusion.prediction names.

    Raises:
      UserError: for sigma_data with another prediction than edm.
      ValueError: for an unknown name, or a sigma_data out of range.
    """
    d = c.diffusion
    if d.sigma_data is None:
        return prediction.parameterisation(d.prediction)
    if d.prediction != "edm":
        raise UserError(
            f"config.diffusion.sigma_data={d.sigma_data}: only prediction=edm has it; leave it at "
            "None"
        )
    return prediction.edm(d.sigma_data)

"""config.diffusion: what is minimised, how it is weighted and how its times are drawn."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.build import conditioning, networks, paths
from ddpm_jax.build.datasets import dataset
from ddpm_jax.config.choose import choose, defaults_of, keywords, parameters
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion import losses, time_draws, weightings
from ddpm_jax.diffusion.prediction import Parameterisation
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.models import learned_schedule
from ddpm_jax.training.objectives import denoise
from ddpm_jax.training.objectives.base import Objective


def _simple(
    network: losses.Network,
    schedule: Schedule,
    x0: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    *,
    prediction: Parameterisation,
    weighting: weightings.Weighting | None,
) -> jax.Array:
    """The squared error, in the prediction's own units where nothing weights the error of eps."""
    if weighting is None:
        return losses.simple(network, schedule, x0, t, eps, prediction=prediction)
    return losses.weighted(
        network, schedule, x0, t, eps, prediction=prediction, weighting=weighting
    )


@dataclasses.dataclass(frozen=True)
class LossRow:
    """A loss, and what it needs of the rest of config.diffusion.

    Attributes:
      loss: (network, schedule, x0, t, eps) -> [B]. By keyword it may take prediction, weighting,
        variance, decoder_levels and with_ends, which the rest of the config decides; its other
        keywords are config.diffusion.loss_options.
      steps: "discrete" or "continuous", the schedules that it is a loss of; None for both.
      is_bound: a mean over uniform times, with a weighting of its own.
      learned_variance: whether it trains a learned reverse variance: None for never, "may" or
        "must".
    """

    loss: Callable[..., Any]
    steps: str | None = None
    is_bound: bool = False
    learned_variance: str | None = None


LOSSES: dict[str, LossRow] = {
    "simple": LossRow(_simple),
    "score_matching": LossRow(losses.score_matching),
    "hybrid": LossRow(losses.hybrid, steps="discrete", learned_variance="must"),
    "vlb": LossRow(losses.vlb, steps="discrete", is_bound=True, learned_variance="may"),
    "continuous_vlb": LossRow(losses.continuous_vlb, steps="continuous", is_bound=True),
}
WEIGHTINGS: dict[str, Callable[..., Any]] = {
    "none": lambda: None,  # the error of the prediction in its own units
    "constant": weightings.constant,
    "snr": weightings.snr,
    "min_snr": weightings.min_snr,
    "p2": weightings.p2,
    "sigmoid": weightings.sigmoid,
    "edm": weightings.edm,
    "truncated_snr": weightings.truncated_snr,
    "likelihood": weightings.likelihood,
    "inverse_variance": lambda: None,  # version 1's: of the posterior mean, not of eps
}
TIME_DRAWS: dict[str, Callable[..., time_draws.TimeDraw]] = {
    "uniform": time_draws.uniform,
    "stratified": time_draws.stratified,
    "importance": time_draws.importance,
    "log_normal": time_draws.log_normal,
    "logit_normal": time_draws.logit_normal,
}
# Draws whose mean loss is the uniform one's, as a bound needs it.
OF_A_BOUND = ("uniform", "stratified", "importance")


def denoising(
    c: ConfigDict, model: networks.NetworkModule, schedule: Schedule | None, own: Own = NONE
) -> Objective:
    """The denoising objective of config.diffusion; a schedule of None is learned by the model.

    A loss of the user's own is `(network, schedule, x0, t, eps, **options) -> [B]`, a weighting
    `(**options) -> Weighting`, a draw of times `(**options) -> TimeDraw`.

    Raises:
      UserError: for an unknown name, an option that its choice does not have, or choices that do
        not go together.
      ValueError: for an option's value that does not fit.
    """
    d = c.diffusion
    row = _loss_row(d, own)
    time_draw = chosen_time_draw(d, own)
    check_times(d, row, schedule)
    loss = _loss(c, row, schedule, own)
    return denoise.denoising(
        model.apply,
        learned_schedule.schedule_of if schedule is None else schedule,
        loss=loss,
        time_draw=time_draw,
        dropout=conditioning.dropout(c),
        joint_dropout=d.joint_dropout,
        of_variance=learned_schedule.of_variance if schedule is None else None,
    )


def data_levels(c: ConfigDict, own: Own = NONE) -> int | None:
    """How many values the training data take in [-1, 1]; None if they are spread to a density."""
    return None if c.data.dequantise else pixel_levels(c, own)


def pixel_levels(c: ConfigDict, own: Own = NONE) -> int:
    """How many values the pixels of config.data take, known before the data are read."""
    return dataset(c, own).info.num_values


def chosen_time_draw(d: ConfigDict, own: Own) -> time_draws.TimeDraw:
    """What config.diffusion.time_draw names. Raises UserError for an option it does not have."""
    build = choose("diffusion.time_draw", d.time_draw, TIME_DRAWS, own)
    options = keywords(
        "diffusion.time_options",
        d.time_options,
        build,
        name=f"time draw {d.time_draw}",
        choices=TIME_DRAWS,
    )
    return build(**options)


def _weighting(d: ConfigDict, own: Own) -> weightings.Weighting | None:
    """What config.diffusion.weighting names; None leaves the loss its own units."""
    build = choose("diffusion.weighting", d.weighting, WEIGHTINGS, own)
    options = dict(d.weighting_options)
    of_network = d.prediction_options.get("sigma_data")
    if of_network is not None and "sigma_data" in defaults_of(build):
        options.setdefault("sigma_data", of_network)  # the network's own
    options = keywords(
        "diffusion.weighting_options",
        options,
        build,
        name=f"weighting {d.weighting}",
        choices=WEIGHTINGS,
    )
    return build(**options)


def _loss_row(d: ConfigDict, own: Own) -> LossRow:
    """What config.diffusion.loss names; a function of the user's own trains what it takes."""
    row = choose("diffusion.loss", d.loss, LOSSES, own)
    if isinstance(row, LossRow):
        return row
    return LossRow(row, learned_variance="may" if "variance" in parameters(row) else None)


def _loss(c: ConfigDict, row: LossRow, schedule: Schedule | None, own: Own) -> denoise.Loss:
    """The loss with its options, and what it takes of the rest of the config, bound."""
    d = c.diffusion
    weighting = _weighting(d, own)
    _check_loss(d, row, schedule)
    provided = {
        "prediction": paths.parameterisation(c),
        "weighting": weighting,
        "variance": d.variance,
        "decoder_levels": data_levels(c, own),
        "with_ends": schedule is None,
    }
    if d.weighting == "inverse_variance" and schedule is not None:
        weight = losses.inverse_variance(schedule, d.variance)
        return functools.partial(losses.simple, prediction=provided["prediction"], weight=weight)
    options = keywords(
        "diffusion.loss_options",
        d.loss_options,
        row.loss,
        name=f"loss {d.loss}",
        positional=("network", "schedule", "x0", "t", "eps"),
        provided=provided,
        choices={name: one.loss for name, one in LOSSES.items()},
    )
    if not 0 <= d.loss_options.get("vlb_weight", 0) < math.inf:
        bad = f"config.diffusion.loss_options.vlb_weight={d.loss_options.vlb_weight}"
        raise UserError(f"{bad}: need a finite number, at least 0")
    return functools.partial(row.loss, **options)


def _check_loss(d: ConfigDict, row: LossRow, schedule: Schedule | None) -> None:
    """Loss, weighting, variance and schedule go together, or one UserError with its remedy."""
    need = functools.partial(need_field, d)
    discrete = schedule is not None and schedule.betas is not None
    if d.weighting == "inverse_variance":
        need(
            d.prediction == "posterior_mean" and d.loss == "simple",
            "weighting",
            "weights the posterior mean: set prediction=posterior_mean and loss=simple (they are "
            f"{d.prediction} and {d.loss}), or weighting=none",
        )
    need(
        not row.is_bound or d.weighting == "none",
        "weighting",
        f"loss={d.loss} has a weighting of its own; set weighting=none",
    )
    need(
        d.weighting in ("none", "inverse_variance") or "weighting" in parameters(row.loss),
        "weighting",
        f"loss={d.loss} takes no weighting; set weighting=none",
    )
    need(
        schedule is not None or (row.is_bound and row.steps == "continuous"),
        "loss",
        "a learned schedule is trained by its bound; set loss=continuous_vlb",
    )
    need(
        discrete or row.steps != "discrete",
        "loss",
        f"needs the steps of a discrete schedule, and {d.schedule} is continuous; set "
        "loss=continuous_vlb, or another schedule",
    )
    need(
        not discrete or row.steps != "continuous",
        "loss",
        f"needs a continuous schedule, and {d.schedule} is discrete; set loss=vlb, or another "
        "schedule",
    )
    need(
        discrete or d.prediction != "posterior_mean",
        "prediction",
        f"applies only to a discrete schedule, and {d.schedule} is continuous; set another",
    )
    need(
        row.learned_variance != "must" or d.variance == "learned_range",
        "loss",
        "trains a learned variance; set variance=learned_range, or loss=simple",
    )
    trains = [name for name, one in LOSSES.items() if one.learned_variance]
    need(
        d.variance != "learned_range" or row.learned_variance is not None,
        "variance",
        f"loss={d.loss} does not train the variance; set loss={' or '.join(trains)}, or a fixed "
        "variance",
    )


def check_times(d: ConfigDict, row: LossRow, schedule: Schedule | None) -> None:
    """The draw of times fits loss and schedule, or one UserError with its remedy."""
    need_field(
        d,
        not row.is_bound or d.time_draw in OF_A_BOUND,
        "time_draw",
        f"loss={d.get('loss')} is a mean over uniform times; set one of {', '.join(OF_A_BOUND)}",
    )
    if "t_min" in d.time_options and schedule is not None and schedule.betas is not None:
        raise UserError(
            f"config.diffusion.time_options.t_min={d.time_options.t_min}: the times of "
            f"{d.schedule} are its own steps; leave it out"
        )
    need_field(
        d,
        d.time_draw != "importance" or (schedule is not None and schedule.betas is not None),
        "time_draw",
        f"remembers the losses of discrete steps, and {d.schedule} is continuous; set stratified",
    )


def need_field(d: ConfigDict, fits: bool, field: str, remedy: str) -> None:
    """Raises UserError with the remedy for config.diffusion's field, unless it fits."""
    if not fits:
        raise UserError(f"config.diffusion.{field}={d[field]}: {remedy}")

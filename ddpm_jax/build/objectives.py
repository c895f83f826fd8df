"""config.diffusion: what is minimised, how it is weighted and how its times are drawn."""

import functools
import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.build import conditioning, networks, paths
from ddpm_jax.build.datasets import dataset
from ddpm_jax.config.choose import choose, keywords
from ddpm_jax.diffusion import losses, time_draws, weightings
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.models import learned_schedule
from ddpm_jax.training.objectives import classify, denoise
from ddpm_jax.training.objectives.base import Objective

LOSSES = ("simple", "score_matching", "hybrid", "vlb", "continuous_vlb", "cross_entropy")
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
WEIGHTING_OPTIONS = {
    "weighting_gamma": "gamma",
    "weighting_k": "k",
    "weighting_bias": "bias",
    "weighting_sigma_data": "sigma_data",
}
TIME_DRAWS: dict[str, Callable[..., time_draws.TimeDraw]] = {
    "uniform": time_draws.uniform,
    "stratified": time_draws.stratified,
    "importance": time_draws.importance,
    "log_normal": time_draws.log_normal,
    "logit_normal": time_draws.logit_normal,
}
TIME_OPTIONS = {
    "time_mean": "mean",
    "time_std": "std",
    "time_min": "t_min",
    "time_history": "history_size",
    "time_uniform_prob": "uniform_prob",
}
# Draws whose mean loss is the uniform one's, as a bound needs it.
OF_A_BOUND = ("uniform", "stratified", "importance")
# What a classifier leaves at its default.
OF_DENOISING = {
    "prediction": "eps",
    "variance": "fixed_large",
    "weighting": "none",
    "label_dropout": 0.0,
    "joint_dropout": 0.0,
}


def objective(c: ConfigDict, model: networks.Network, schedule: Schedule | None) -> Objective:
    """The objective of config.diffusion; a schedule of None is learned by the model.

    Raises:
      UserError: for an unknown name, an option that its choice does not have, or choices that do
        not go together.
      ValueError: for an option's value that does not fit.
    """
    d = c.diffusion
    choose("diffusion.loss", d.loss, dict.fromkeys(LOSSES))
    build_weighting = choose("diffusion.weighting", d.weighting, WEIGHTINGS)
    build_draw = choose("diffusion.time_draw", d.time_draw, TIME_DRAWS)
    options = functools.partial(keywords, "diffusion", d)
    of_weighting = options(WEIGHTING_OPTIONS, build_weighting, WEIGHTINGS, "weighting")
    if d.weighting == "edm" and d.sigma_data is not None:
        of_weighting.setdefault("sigma_data", d.sigma_data)  # the network's own
    time_draw = build_draw(**options(TIME_OPTIONS, build_draw, TIME_DRAWS, "time draw"))
    _check_loss(d, schedule)
    _check_times(d, schedule)
    _check_classifier(c)
    if schedule is not None and d.loss == "cross_entropy":
        return classify.classification(model.apply, schedule, time_draw=time_draw)
    return denoise.denoising(
        model.apply,
        learned_schedule.schedule_of if schedule is None else schedule,
        loss=_loss(c, schedule, build_weighting(**of_weighting)),
        time_draw=time_draw,
        dropout=conditioning.dropout(c),
        joint_dropout=d.joint_dropout,
        of_variance=learned_schedule.of_variance if schedule is None else None,
    )


def data_levels(c: ConfigDict) -> int | None:
    """How many values the training data take in [-1, 1]; None if they are spread to a density."""
    return None if c.data.dequantise else pixel_levels(c)


def pixel_levels(c: ConfigDict) -> int:
    """How many values the pixels of config.data take, known before the data are read."""
    return dataset(c).info.num_values


def _loss(
    c: ConfigDict, schedule: Schedule | None, weighting: weightings.Weighting | None
) -> denoise.Loss:
    """The loss of config.diffusion.loss with its options bound."""
    d, levels = c.diffusion, data_levels(c)
    bind = functools.partial(functools.partial, prediction=paths.parameterisation(c))
    if d.loss == "hybrid":
        of_bound = {} if d.vlb_weight is None else {"vlb_weight": d.vlb_weight}
        return bind(losses.hybrid, weighting=weighting, decoder_levels=levels, **of_bound)
    if d.loss == "vlb":
        return bind(losses.vlb, variance=d.variance, decoder_levels=levels)
    if d.loss == "continuous_vlb":
        return bind(losses.continuous_vlb, decoder_levels=levels, with_ends=schedule is None)
    if d.loss == "score_matching":
        return bind(losses.score_matching, weighting=weighting)
    if d.weighting == "inverse_variance" and schedule is not None:
        return bind(losses.simple, weight=losses.inverse_variance(schedule, d.variance))
    if weighting is None:
        return bind(losses.simple)
    return bind(losses.weighted, weighting=weighting)


def _check_loss(d: ConfigDict, schedule: Schedule | None) -> None:
    """Loss, weighting, variance and schedule go together, or one UserError with its remedy."""
    need = functools.partial(_need, d)
    discrete = schedule is not None and schedule.betas is not None
    if d.weighting == "inverse_variance":
        need(
            d.prediction == "posterior_mean" and d.loss == "simple",
            "weighting",
            "weights the posterior mean: set prediction=posterior_mean and loss=simple (they are "
            f"{d.prediction} and {d.loss}), or weighting=none",
        )
    need(
        d.loss not in ("vlb", "continuous_vlb") or d.weighting == "none",
        "weighting",
        f"loss={d.loss} has a weighting of its own; set weighting=none",
    )
    need(
        schedule is not None or d.loss == "continuous_vlb",
        "loss",
        "a learned schedule is trained by its bound; set loss=continuous_vlb",
    )
    need(
        discrete or d.loss not in ("hybrid", "vlb"),
        "loss",
        f"needs the steps of a discrete schedule, and {d.schedule} is continuous; set "
        "loss=continuous_vlb, or another schedule",
    )
    need(
        not discrete or d.loss != "continuous_vlb",
        "loss",
        f"needs a continuous schedule, and {d.schedule} is discrete; set loss=vlb, or another "
        "schedule",
    )
    need(
        discrete or d.prediction != "posterior_mean",
        "prediction",
        f"is of the steps of a discrete schedule, and {d.schedule} is continuous; set another",
    )
    need(
        d.loss != "hybrid" or d.variance == "learned_range",
        "loss",
        "trains a learned variance; set variance=learned_range, or loss=simple",
    )
    need(
        d.vlb_weight is None or (d.loss == "hybrid" and 0 <= d.vlb_weight < math.inf),
        "vlb_weight",
        "need a finite number, at least 0, and loss=hybrid; leave it at None",
    )
    need(
        d.variance != "learned_range" or d.loss in ("hybrid", "vlb"),
        "variance",
        f"loss={d.loss} does not train the variance; set loss=hybrid or vlb, or a fixed variance",
    )


def _check_times(d: ConfigDict, schedule: Schedule | None) -> None:
    """The draw of times fits loss and schedule, or one UserError with its remedy."""
    _need(
        d,
        d.loss not in ("vlb", "continuous_vlb") or d.time_draw in OF_A_BOUND,
        "time_draw",
        f"loss={d.loss} is a mean over uniform times; set one of {', '.join(OF_A_BOUND)}",
    )
    _need(
        d,
        d.time_min is None or schedule is None or schedule.betas is None,
        "time_min",
        f"the times of {d.schedule} are its own steps; leave it at None",
    )
    _need(
        d,
        d.time_draw != "importance" or (schedule is not None and schedule.betas is not None),
        "time_draw",
        f"remembers the losses of discrete steps, and {d.schedule} is continuous; set stratified",
    )


def _check_classifier(c: ConfigDict) -> None:
    """A classifier has its own loss and reads nothing of denoising, or one UserError."""
    d, is_classifier = c.diffusion, c.model.name == "classifier"
    _need(
        d,
        is_classifier == (d.loss == "cross_entropy"),
        "loss",
        "a classifier is trained by cross_entropy, and only it; set model.name=classifier "
        f"(it is {c.model.name}) and loss=cross_entropy together",
    )
    if not is_classifier:
        return
    for field, value in OF_DENOISING.items():
        _need(d, d[field] == value, field, f"a classifier denoises nothing; leave it at {value!r}")
    _need(d, d.time_draw != "importance", "time_draw", "a classifier keeps no losses; set uniform")
    for field in ("conditions", "fourier_features"):
        if c.model[field]:
            raise UserError(
                f"config.model.{field}={c.model[field]!r}: a classifier sees x_t alone; set ()"
            )


def _need(d: ConfigDict, fits: bool, field: str, remedy: str) -> None:
    if not fits:
        raise UserError(f"config.diffusion.{field}={d[field]}: {remedy}")

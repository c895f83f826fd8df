"""What a network predicts, and the one hub through which every form converts: (x_0, eps).

Every `Denoised` obeys x_t = alpha x_0 + sigma eps, so one of the two fixes the other given x_t.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import process
from ddpm_jax.diffusion.schedules import Schedule, expand

Conditions = dict[str, jax.Array] | jax.Array | None
# apply(variables, xt, time, conditions) -> output
Network = Callable[..., Any]


class Denoised(NamedTuple):
    """The estimate that networks, guidance and samplers share, x_t = alpha x_0 + sigma eps.

    Attributes:
      x0: the estimate of the clean data, [B, ...].
      eps: the estimate of the noise, [B, ...].
      variance_fraction: a learned reverse variance's raw output, [B, ...], or None.
    """

    x0: jax.Array
    eps: jax.Array
    variance_fraction: jax.Array | None = None


Denoiser = Callable[[jax.Array, jax.Array], Denoised]


def _levels(schedule: Schedule, x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """alpha and sigma at t, shaped to multiply x."""
    t = process.time_like(t, x)
    return expand(schedule.alpha(t), x), expand(schedule.sigma(t), x)


def from_x0(schedule: Schedule, xt: jax.Array, t: jax.Array, x0: jax.Array) -> Denoised:
    """eps = (x_t - alpha x_0) / sigma; t > 0."""
    alpha, sigma = _levels(schedule, xt, t)
    return Denoised(x0, (xt - alpha * x0) / sigma)


def from_eps(schedule: Schedule, xt: jax.Array, t: jax.Array, eps: jax.Array) -> Denoised:
    """x_0 = (x_t - sigma eps) / alpha (Ho et al. 2020, equation 15); needs alpha > 0."""
    alpha, sigma = _levels(schedule, xt, t)
    return Denoised((xt - sigma * eps) / alpha, eps)


def from_v(schedule: Schedule, xt: jax.Array, t: jax.Array, v: jax.Array) -> Denoised:
    """v = alpha eps - sigma x_0 (Salimans & Ho 2022, appendix D), on any Gaussian path."""
    alpha, sigma = _levels(schedule, xt, t)
    norm = alpha**2 + sigma**2
    return Denoised((alpha * xt - sigma * v) / norm, (sigma * xt + alpha * v) / norm)


def from_score(schedule: Schedule, xt: jax.Array, t: jax.Array, score: jax.Array) -> Denoised:
    """score = -eps / sigma, the gradient of log q(x_t) (Song et al. 2021)."""
    _, sigma = _levels(schedule, xt, t)
    return from_eps(schedule, xt, t, -sigma * score)


def from_posterior_mean(
    schedule: Schedule, xt: jax.Array, t: jax.Array, mean: jax.Array
) -> Denoised:
    """mean = mu-tilde(x_t, x_0) of the step from t to t - 1/T (Ho et al. 2020, equation 7)."""
    t = process.time_like(t, xt)
    weights = process.posterior_coefficients(schedule, previous_time(schedule, t), t)
    weight_xt, weight_x0 = (expand(w, xt) for w in weights)
    return from_x0(schedule, xt, t, (mean - weight_xt * xt) / weight_x0)


def to_x0(schedule: Schedule, xt: jax.Array, t: jax.Array, denoised: Denoised) -> jax.Array:
    """The x_0 of the hub."""
    return denoised.x0


def to_eps(schedule: Schedule, xt: jax.Array, t: jax.Array, denoised: Denoised) -> jax.Array:
    """The eps of the hub."""
    return denoised.eps


def to_v(schedule: Schedule, xt: jax.Array, t: jax.Array, denoised: Denoised) -> jax.Array:
    """v = alpha eps - sigma x_0 (Salimans & Ho 2022)."""
    alpha, sigma = _levels(schedule, xt, t)
    return alpha * denoised.eps - sigma * denoised.x0


def to_score(schedule: Schedule, xt: jax.Array, t: jax.Array, denoised: Denoised) -> jax.Array:
    """The score -eps / sigma of q(x_t); t > 0."""
    _, sigma = _levels(schedule, xt, t)
    return -denoised.eps / sigma


def to_posterior_mean(
    schedule: Schedule, xt: jax.Array, t: jax.Array, denoised: Denoised
) -> jax.Array:
    """mu-tilde(x_t, x_0) of the step from t to t - 1/T; needs a discrete schedule."""
    t = process.time_like(t, xt)
    return process.posterior_mean(schedule, xt, denoised.x0, previous_time(schedule, t), t)


class Parameterisation(NamedTuple):
    """The two directions between a network's output and the hub."""

    decode: Callable[[Schedule, jax.Array, jax.Array, jax.Array], Denoised]
    encode: Callable[[Schedule, jax.Array, jax.Array, Denoised], jax.Array]


PARAMETERISATIONS = {
    "eps": Parameterisation(from_eps, to_eps),
    "x0": Parameterisation(from_x0, to_x0),
    "v": Parameterisation(from_v, to_v),
    "score": Parameterisation(from_score, to_score),
    "posterior_mean": Parameterisation(from_posterior_mean, to_posterior_mean),
}


def parameterisation(name: str) -> Parameterisation:
    """The conversions of a prediction by its name. Raises ValueError for an unknown one."""
    if name not in PARAMETERISATIONS:
        raise ValueError(f"prediction must be one of {', '.join(PARAMETERISATIONS)}, got {name!r}")
    return PARAMETERISATIONS[name]


def decode(
    name: str, schedule: Schedule, xt: jax.Array, t: jax.Array, output: jax.Array
) -> Denoised:
    """What a network that predicts `name` says of (x_0, eps).

    Args:
      name: "eps", "x0", "v", "score" or "posterior_mean".
      schedule: the path that x_t lies on.
      xt: the noised data, [B, ...].
      t: [B] or a scalar, in (0, 1].
      output: the network's output, the shape of xt.

    Raises:
      ValueError: for an unknown name, or an output whose shape is not that of xt.
    """
    convert = parameterisation(name).decode
    if output.shape != xt.shape:
        raise ValueError(f"the output must have the shape of xt, got {output.shape}, {xt.shape}")
    return convert(schedule, xt, t, output)


def encode(
    name: str, schedule: Schedule, xt: jax.Array, t: jax.Array, denoised: Denoised
) -> jax.Array:
    """What a network that predicts `name` should output for this (x_0, eps); inverse of decode.

    Raises:
      ValueError: for an unknown name.
    """
    return parameterisation(name).encode(schedule, xt, t, denoised)


def denoiser(
    apply_fn: Network,
    params: Any,
    schedule: Schedule,
    *,
    prediction: str = "eps",
    conditions: Conditions = None,
) -> Denoiser:
    """A network and its parameters as a Denoiser: (x_t [B, ...], t [B]) -> Denoised.

    Args:
      apply_fn: called as apply_fn({"params": params}, xt, time, conditions).
      params: the network's parameters.
      schedule: gives the network its time and the hub its levels.
      prediction: what the network predicts, a key of PARAMETERISATIONS.
      conditions: what the network is conditioned on, or None.

    Raises:
      ValueError: for an unknown prediction.
    """
    parameterisation(prediction)

    def denoise(xt: jax.Array, t: jax.Array) -> Denoised:
        output = apply_fn({"params": params}, xt, schedule.network_time(t), conditions)
        return decode(prediction, schedule, xt, t, output)

    return denoise


def previous_time(schedule: Schedule, t: jax.Array) -> jax.Array:
    """t - 1/T, the step before t on a discrete schedule. Raises ValueError on a continuous one."""
    return jnp.maximum(t - 1 / schedule.num_steps, 0)

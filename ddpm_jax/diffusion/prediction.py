"""What a network predicts, and the one hub through which every form converts: (x_0, eps).

Every `Denoised` obeys x_t = alpha x_0 + sigma eps, so one of the two fixes the other given x_t.
"""

# Over 300 lines: every parameterisation beside the others, one table of the same two functions.

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import process
from ddpm_jax.diffusion.schedules import Schedule, expand

Conditions = dict[str, jax.Array] | jax.Array | None
# apply(variables, xt, time, conditions) -> output
ApplyFn = Callable[..., Any]


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
    """eps = (x_t - alpha x_0) / sigma; 0, its mean, where sigma = 0 and x_t tells nothing of it."""
    alpha, sigma = _levels(schedule, xt, t)
    return Denoised(x0, _divide(xt - alpha * x0, sigma))


def from_eps(schedule: Schedule, xt: jax.Array, t: jax.Array, eps: jax.Array) -> Denoised:
    """x_0 = (x_t - sigma eps) / alpha (Ho et al. 2020, equation 15).

    Where alpha = 0, x_t tells nothing of x_0 and x_0 is 0: predict v, x0 or flow on such a path.
    """
    alpha, sigma = _levels(schedule, xt, t)
    return Denoised(_divide(xt - sigma * eps, alpha), eps)


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


def from_flow(schedule: Schedule, xt: jax.Array, t: jax.Array, flow: jax.Array) -> Denoised:
    """flow = eps - x_0, the velocity of rectified flow (Liu et al. 2022), on any Gaussian path."""
    alpha, sigma = _levels(schedule, xt, t)
    norm = alpha + sigma
    return Denoised((xt - sigma * flow) / norm, (xt + alpha * flow) / norm)


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


def to_flow(schedule: Schedule, xt: jax.Array, t: jax.Array, denoised: Denoised) -> jax.Array:
    """The velocity eps - x_0 of rectified flow."""
    return denoised.eps - denoised.x0


def _divide(numerator: jax.Array, level: jax.Array) -> jax.Array:
    """numerator / level, and 0 where the level is 0: no NaN, in gradients either."""
    vanishes = level == 0
    return jnp.where(vanishes, 0, numerator / jnp.where(vanishes, 1, level))


ScaleOfTime = Callable[[Schedule, jax.Array], jax.Array]


class Parameterisation(NamedTuple):
    """What a network predicts.

    Attributes:
      decode: (schedule, x_t, t, output) -> Denoised.
      encode: (schedule, x_t, t, Denoised) -> the output that says so; decode's inverse.
      eps_scale: (schedule, t) -> d eps / d output, the shape of t: an error of the output, times
        this, is one of eps. 0 where alpha = 0.
      input_scale: (schedule, t) -> what x_t is multiplied by before the network sees it.
    """

    decode: Callable[[Schedule, jax.Array, jax.Array, jax.Array], Denoised]
    encode: Callable[[Schedule, jax.Array, jax.Array, Denoised], jax.Array]
    eps_scale: ScaleOfTime
    input_scale: ScaleOfTime | None = None

    def scale_input(self, schedule: Schedule, xt: jax.Array, t: jax.Array) -> jax.Array:
        """x_t as the network is shown it."""
        if self.input_scale is None:
            return xt
        return expand(self.input_scale(schedule, process.time_like(t, xt)), xt) * xt


def edm(sigma_data: float = 0.5) -> Parameterisation:
    """The preconditioned F of Karras et al. on any path; on VP with sigma_data = 1, F = -v.

    With D = sigma² + alpha² sigma_data²,
    x_0 = (alpha sigma_data² / D) x_t + (sigma sigma_data / sqrt D) F(x_t / sqrt D).

    Args:
      sigma_data: the data's standard deviation, 0 < sigma_data < inf.

    Raises:
      ValueError: for a sigma_data out of range.

    Source: Karras et al. 2022, table 1 (c_skip, c_out, c_in), carried to alpha != 1.
    """
    if not 0 < sigma_data < math.inf:
        raise ValueError(f"need 0 < sigma_data < inf, got {sigma_data=}")

    def norm(alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        return jnp.sqrt(sigma**2 + (alpha * sigma_data) ** 2)

    def decode(schedule: Schedule, xt: jax.Array, t: jax.Array, output: jax.Array) -> Denoised:
        alpha, sigma = _levels(schedule, xt, t)
        root = norm(alpha, sigma)
        scaled, output = xt / root, sigma_data * output
        x0 = (alpha * sigma_data**2 * scaled + sigma * output) / root
        return Denoised(x0, (sigma * scaled - alpha * output) / root)

    def encode(schedule: Schedule, xt: jax.Array, t: jax.Array, denoised: Denoised) -> jax.Array:
        alpha, sigma = _levels(schedule, xt, t)
        # (x_0 - c_skip x_t) / c_out with x_t = alpha x_0 + sigma eps put in: nothing cancels.
        error = sigma * denoised.x0 - alpha * sigma_data**2 * denoised.eps
        return error / (sigma_data * norm(alpha, sigma))

    def eps_scale(schedule: Schedule, t: jax.Array) -> jax.Array:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return -alpha * sigma_data / norm(alpha, sigma)

    def input_scale(schedule: Schedule, t: jax.Array) -> jax.Array:
        return 1 / norm(schedule.alpha(t), schedule.sigma(t))

    return Parameterisation(decode, encode, eps_scale, input_scale)


def _x0_eps_scale(schedule: Schedule, t: jax.Array) -> jax.Array:
    return -_divide(schedule.alpha(t), schedule.sigma(t))


def _posterior_mean_eps_scale(schedule: Schedule, t: jax.Array) -> jax.Array:
    _, weight_x0 = process.posterior_coefficients(schedule, previous_time(schedule, t), t)
    return _x0_eps_scale(schedule, t) / weight_x0


def _v_eps_scale(schedule: Schedule, t: jax.Array) -> jax.Array:
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return alpha / (alpha**2 + sigma**2)


def _flow_eps_scale(schedule: Schedule, t: jax.Array) -> jax.Array:
    alpha = schedule.alpha(t)
    return alpha / (alpha + schedule.sigma(t))


PARAMETERISATIONS = {
    "eps": Parameterisation(from_eps, to_eps, lambda schedule, t: jnp.ones_like(t)),
    "x0": Parameterisation(from_x0, to_x0, _x0_eps_scale),
    "v": Parameterisation(from_v, to_v, _v_eps_scale),
    "score": Parameterisation(from_score, to_score, lambda schedule, t: -schedule.sigma(t)),
    "posterior_mean": Parameterisation(
        from_posterior_mean, to_posterior_mean, _posterior_mean_eps_scale
    ),
    "flow": Parameterisation(from_flow, to_flow, _flow_eps_scale),
    "edm": edm(),
}


def parameterisation(name: str | Parameterisation) -> Parameterisation:
    """The conversions of a prediction by its name. Raises ValueError for an unknown one."""
    if isinstance(name, Parameterisation):
        return name
    if name not in PARAMETERISATIONS:
        raise ValueError(f"prediction must be one of {', '.join(PARAMETERISATIONS)}, got {name!r}")
    return PARAMETERISATIONS[name]


def decode(
    name: str | Parameterisation, schedule: Schedule, xt: jax.Array, t: jax.Array, output: jax.Array
) -> Denoised:
    """What a network that predicts `name` says of (x_0, eps).

    Args:
      name: a key of PARAMETERISATIONS, or a Parameterisation itself.
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
    name: str | Parameterisation,
    schedule: Schedule,
    xt: jax.Array,
    t: jax.Array,
    denoised: Denoised,
) -> jax.Array:
    """What a network that predicts `name` should output for this (x_0, eps); inverse of decode.

    Raises:
      ValueError: for an unknown name.
    """
    return parameterisation(name).encode(schedule, xt, t, denoised)


def denoiser(
    apply_fn: ApplyFn,
    params: Any,
    schedule: Schedule,
    *,
    prediction: str | Parameterisation = "eps",
    conditions: Conditions = None,
    learned_variance: bool = False,
) -> Denoiser:
    """A network and its parameters as a Denoiser: (x_t [B, ...], t [B]) -> Denoised.

    Args:
      apply_fn: called as apply_fn({"params": params}, xt, time, conditions).
      params: the network's parameters.
      schedule: gives the network its time and the hub its levels.
      prediction: what the network predicts, a key of PARAMETERISATIONS or one itself.
      conditions: what the network is conditioned on, or None.
      learned_variance: the second half of the network's channels is the reverse variance's
        fraction (Nichol & Dhariwal 2021).

    Raises:
      ValueError: for an unknown prediction.
    """
    form = parameterisation(prediction)

    def denoise(xt: jax.Array, t: jax.Array) -> Denoised:
        shown = form.scale_input(schedule, xt, t)
        output, fraction = (
            apply_fn({"params": params}, shown, schedule.network_time(t), conditions),
            None,
        )
        if learned_variance:
            output, fraction = split_variance(output, xt)
        return decode(form, schedule, xt, t, output)._replace(variance_fraction=fraction)

    return denoise


def split_variance(output: jax.Array, xt: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The output of a network with learned range: (prediction, variance fraction), each like xt.

    Raises:
      ValueError: if the last axis is not twice that of xt.
    """
    channels = xt.shape[-1]
    if output.shape != (*xt.shape[:-1], 2 * channels):
        raise ValueError(
            f"a learned-range network needs {2 * channels} output channels for data of {channels} "
            f"(the prediction, then the variance's fraction), got output of shape {output.shape} "
            f"for xt of shape {xt.shape}"
        )
    return output[..., :channels], output[..., channels:]


def previous_time(schedule: Schedule, t: jax.Array) -> jax.Array:
    """t - 1/T, the step before t on a discrete schedule. Raises ValueError on a continuous one."""
    return jnp.maximum(t - 1 / schedule.num_steps, 0)

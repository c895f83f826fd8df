"""Squared errors of a prediction, in its own units or weighted as an error of eps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import process, weightings
from ddpm_jax.diffusion.prediction import (
    Denoised,
    Parameterisation,
    encode,
    parameterisation,
    previous_time,
)
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.weightings import Weighting

# (x_t [B, ...], time [B]) -> output [B, ...]
Network = Callable[[jax.Array, jax.Array], jax.Array]
Weight = Callable[[jax.Array], jax.Array]


def simple(
    network: Network,
    schedule: Schedule,
    x0: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    *,
    prediction: str | Parameterisation = "eps",
    weight: Weight | None = None,
) -> jax.Array:
    """The mean squared error of the network's output against its target, in the target's own units.

    Args:
      network: (x_t [B, ...], time [B]) -> output [B, ...], in the units of `prediction`.
      schedule: the forward process.
      x0: clean data, [B, ...].
      t: [B], in (0, 1].
      eps: standard normal noise, the shape of x0.
      prediction: the network's target, a key of PARAMETERISATIONS or one itself. "eps" gives
        L_simple.
      weight: t -> [B], multiplies the error; None for 1.

    Returns:
      [B], in float32 (float64 if the data are float64).

    Raises:
      ValueError: if shapes differ or the prediction is unknown.

    Source: Ho et al. 2020, Algorithm 1 and equation 14; equation 8 for the posterior mean.
    """
    xt = process.add_noise(schedule, x0, t, eps)
    target = encode(prediction, schedule, xt, t, Denoised(x0, eps))
    error = mean_squared_error(call(network, schedule, xt, t, prediction), target)
    return error if weight is None else weight(t) * error


def weighted(
    network: Network,
    schedule: Schedule,
    x0: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    *,
    prediction: str | Parameterisation = "eps",
    weighting: Weighting | None = None,
) -> jax.Array:
    """w(t) times the mean squared error of eps, whatever the network predicts.

    Computed as w (d eps / d output)² times the error of the output, so nothing is divided by a
    level that vanishes: the product is finite, and has its limit, where alpha or sigma reaches 0.

    Args:
      network, schedule, x0, t, eps, prediction: as in `simple`.
      weighting: one of `weightings`; None for 1.

    Returns:
      [B], as `simple`.

    Raises:
      ValueError: as `simple`.

    Source: Kingma & Gao 2023, equation 2 and appendix D (parameterisations).
    """
    error = simple(network, schedule, x0, t, eps, prediction=prediction)
    return error_weight(schedule, process.time_like(t, x0), prediction, weighting) * error


def error_weight(
    schedule: Schedule,
    t: jax.Array,
    prediction: str | Parameterisation,
    weighting: Weighting | None = None,
) -> jax.Array:
    """What multiplies the error of the output so that the error of eps has weight w(t); [B].

    Raises:
      ValueError: for an unknown prediction.
    """
    # Both factors of the bounded path: where one vanishes, the other stays finite.
    scale = parameterisation(prediction).eps_scale(weightings.bounded(schedule), t)
    return scale**2 if weighting is None else weighting(schedule, t) * scale**2


def score_matching(
    network: Network,
    schedule: Schedule,
    x0: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    *,
    prediction: str | Parameterisation = "score",
    weighting: Weighting | None = None,
) -> jax.Array:
    """Denoising score matching: w sigma² times the mean squared error of the score -eps / sigma.

    The factor sigma² is Song & Ermon's: every noise level then weighs about the same. It makes the
    loss an eps-MSE, so this is `weighted` under its other name, with a score network by default.

    Args, Returns, Raises: as `weighted`.

    Source: Vincent 2011, equation 9; Song & Ermon 2019, equations 5 and 6.
    """
    return weighted(network, schedule, x0, t, eps, prediction=prediction, weighting=weighting)


def mean_squared_error(output: jax.Array, target: jax.Array) -> jax.Array:
    """The mean over all axes but the first of (output - target)², [B].

    Raises:
      ValueError: if the shapes differ.
    """
    if output.shape != target.shape:
        raise ValueError(f"output and target differ in shape: {output.shape} and {target.shape}")
    # Half-precision networks still get a loss that can be summed.
    dtype = jnp.result_type(output.dtype, target.dtype, jnp.float32)
    error = (output.astype(dtype) - target.astype(dtype)) ** 2
    return error.reshape(error.shape[0], -1).mean(axis=1)


def inverse_variance(schedule: Schedule, variance: str = "fixed_large") -> Weight:
    """The weight 1 / (2 sigma_i²) that turns the posterior-mean error into a KL divergence.

    Args:
      schedule: a discrete schedule.
      variance: sigma_i² is beta_i ("fixed_large") or beta-tilde_i ("fixed_small"). beta-tilde_1 is
        0 (x_0 is known), so its weight would be infinite: step 1 takes beta-tilde_2.

    Returns:
      t -> the weight, the shape of t.

    Raises:
      ValueError: for another variance, a continuous schedule, or "fixed_small" with one step.

    Source: Ho et al. 2020, equation 8; clipping at i = 2: Nichol & Dhariwal 2021, section 3.1.
    """
    first = 1 / schedule.num_steps
    if variance == "fixed_large":
        return lambda t: 0.5 / process.transition_variance(schedule, previous_time(schedule, t), t)
    if variance == "fixed_small":
        if schedule.num_steps < 2:
            raise ValueError("fixed_small needs a schedule of at least 2 steps: beta-tilde_1 is 0")

        def weight(t: jax.Array) -> jax.Array:
            t = jnp.maximum(t, 2 * first)
            return 0.5 / process.posterior_variance(schedule, previous_time(schedule, t), t)

        return weight
    raise ValueError(f"variance must be fixed_large or fixed_small, got {variance!r}")


def call(
    network: Network,
    schedule: Schedule,
    xt: jax.Array,
    t: jax.Array,
    prediction: str | Parameterisation,
) -> jax.Array:
    """The network's output at t, shown x_t [B, ...] in the units that its prediction asks for."""
    shown = parameterisation(prediction).scale_input(schedule, xt, t)
    return network(shown, schedule.network_time(t))

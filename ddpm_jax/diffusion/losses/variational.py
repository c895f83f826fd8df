"""Variational bounds as training objectives: of a chain, hybrid, and in continuous time."""

import math

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import likelihood, process, weightings
from ddpm_jax.diffusion.losses.squared import (
    Network,
    call,
    error_weight,
    mean_squared_error,
    weighted,
)
from ddpm_jax.diffusion.prediction import (
    Denoised,
    Parameterisation,
    decode,
    encode,
    previous_time,
    split_variance,
)
from ddpm_jax.diffusion.schedules import Schedule, expand
from ddpm_jax.diffusion.weightings import Weighting


def vlb(
    network: Network,
    schedule: Schedule,
    x0: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    *,
    prediction: str | Parameterisation = "eps",
    variance: str = "learned_range",
    decoder_levels: int | None = None,
) -> jax.Array:
    """T times the term of the variational bound at step t, in bits per dimension.

    Its mean over uniform steps is the bound, except for the prior's term, which has no parameters.

    Args:
      network: as in `simple`; under "learned_range" its output has twice the channels of x_t.
      schedule: discrete.
      x0, t, eps, prediction: as in `simple`.
      variance: of the reverse step, one of `variances.VARIANCES`.
      decoder_levels: the number of values that the data take in [-1, 1] (256 for 8-bit images);
        None for data with a density.

    Returns:
      [B], as `simple`.

    Raises:
      ValueError: as `simple`, for a continuous schedule, or a network whose channels do not fit
        the variance.

    Source: Ho et al. 2020, equation 5; Nichol & Dhariwal 2021, section 3.1.
    """
    xt = process.add_noise(schedule, x0, t, eps)
    output, fraction = _split(call(network, schedule, xt, t, prediction), xt, variance)
    return _bound(
        schedule, x0, xt, t, output, fraction, prediction, variance, decoder_levels=decoder_levels
    )


def hybrid(
    network: Network,
    schedule: Schedule,
    x0: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    *,
    prediction: str | Parameterisation = "eps",
    weighting: Weighting | None = None,
    decoder_levels: int | None = None,
    vlb_weight: float = 0.001,
) -> jax.Array:
    """L_simple + 0.001 L_vlb of a network with learned range: the bound trains the variance alone.

    The mean that the bound sees is stopped: its gradient is noisy, and L_simple's is the one that
    makes good samples.

    Args:
      network: as in `simple`, its output with twice the channels of x_t: the prediction, then the
        variance's fraction.
      schedule: discrete.
      x0, t, eps, prediction, decoder_levels: as in `vlb`.
      weighting: of L_simple, as in `weighted`; None for the error in the prediction's own units.
      vlb_weight: lambda, of the bound in bits per dimension as in the authors' code.

    Returns:
      [B], as `simple`.

    Raises:
      ValueError: as `vlb`, or for a vlb_weight that is negative or not finite.

    Source: Nichol & Dhariwal 2021, equation 16 and section 3.1.
    """
    if not 0 <= vlb_weight < math.inf:
        raise ValueError(f"need a finite vlb_weight >= 0, got {vlb_weight=}")
    xt = process.add_noise(schedule, x0, t, eps)
    raw = call(network, schedule, xt, t, prediction)
    output, fraction = _split(raw, xt, "learned_range")
    target = encode(prediction, schedule, xt, t, Denoised(x0, eps))
    error = mean_squared_error(output, target)
    if weighting is not None:
        error = error_weight(schedule, process.time_like(t, x0), prediction, weighting) * error
    stopped = jax.lax.stop_gradient(output)
    bound = _bound(
        schedule,
        x0,
        xt,
        t,
        stopped,
        fraction,
        prediction,
        "learned_range",
        decoder_levels=decoder_levels,
    )
    return error + vlb_weight * bound


def continuous_vlb(
    network: Network,
    schedule: Schedule,
    x0: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    *,
    prediction: str | Parameterisation = "eps",
    decoder_levels: int | None = None,
    with_ends: bool = True,
) -> jax.Array:
    """The bound of infinitely many steps: 1/2 (-d log_snr / dt) |eps - eps-hat|², prior, decoder.

    The prior and the decoder are for a path that starts with some noise, sigma(0) > 0, as a learned
    one does: the decoder is p(x_0 | alpha(0) x_0 + sigma(0) eps) and takes no network call. On a
    fixed path they have no parameters. Differentiable in those of a learned schedule. In bits per
    dimension.

    Args:
      network, schedule, x0, t, eps, prediction: as in `simple`; t uniform on (0, 1].
      decoder_levels: as in `vlb`.
      with_ends: add the prior and the decoder.

    Returns:
      [B], as `simple`; its mean over t and eps is the bound.

    Raises:
      ValueError: as `simple`, or for a discrete schedule.

    Source: Kingma et al. 2021 (VDM), equations 11 and 18; the decoder: their section 4.
    """
    if schedule.betas is not None:
        raise ValueError("continuous_vlb needs a continuous schedule; `vlb` is for discrete ones")
    diffusion = weighted(
        network,
        schedule,
        x0,
        t,
        eps,
        prediction=prediction,
        weighting=weightings.likelihood(),
    )
    if not with_ends:
        return diffusion / math.log(2)
    start = jnp.zeros((), diffusion.dtype)
    noise = schedule.sigma(start) / schedule.alpha(start)
    decoder = likelihood.decoder_nll(
        x0, x0 + noise * eps, expand(2 * jnp.log(noise), x0), decoder_levels
    )
    decoder = decoder.reshape(len(x0), -1).mean(axis=1)
    return (diffusion + likelihood.prior_kl(schedule, x0) + decoder) / math.log(2)


def _split(output: jax.Array, xt: jax.Array, variance: str) -> tuple[jax.Array, jax.Array | None]:
    """The prediction and, under "learned_range", the fraction of a network's output."""
    if variance == "learned_range":
        return split_variance(output, xt)
    return output, None


def _bound(
    schedule: Schedule,
    x0: jax.Array,
    xt: jax.Array,
    t: jax.Array,
    output: jax.Array,
    fraction: jax.Array | None,
    prediction: str | Parameterisation,
    variance: str,
    *,
    decoder_levels: int | None,
) -> jax.Array:
    """T times the bound's term at t, in bits per dimension."""
    t = process.time_like(t, x0)
    # Half-precision networks still get a bound that can be summed.
    wide = jnp.promote_types(output.dtype, jnp.float32)
    denoised = decode(prediction, schedule, xt, t, output.astype(wide))
    if fraction is not None:
        denoised = denoised._replace(variance_fraction=fraction.astype(wide))
    term = likelihood.vlb_term(
        schedule,
        denoised,
        x0,
        xt,
        previous_time(schedule, t),
        t,
        variance=variance,
        decoder_levels=decoder_levels,
    )
    return schedule.num_steps / math.log(2) * term

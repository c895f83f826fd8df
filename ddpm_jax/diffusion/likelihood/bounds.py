"""Variational bounds on -log p(x_0): over a chain of steps, and in continuous time."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import process, schedules, variances
from ddpm_jax.diffusion.likelihood import terms
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule, expand

# Where a continuous path has no first step of its own: the noise level of VDM's CIFAR-10 models.
MAX_LOG_SNR = 13.3
# Paths that reach alpha = 0 end here instead: what lies beyond is of the order of exp(-20) nats on
# average over the noise, of exp(-10) at a point.
MIN_LOG_SNR = -20.0


class Bound(NamedTuple):
    """A bound on -log2 p(x_0) per dimension and the three terms that it is the sum of; each [B].

    Attributes:
      total: the bound.
      prior: KL(q(x_1 | x_0) || N(0, sigma(1)² I)).
      denoising: the divergences of all steps but the last, or their integral.
      decoder: -log2 p(x_0 | x_t) at the first time t.
    """

    total: jax.Array
    prior: jax.Array
    denoising: jax.Array
    decoder: jax.Array


def discrete_vlb(
    denoise: Denoiser,
    schedule: Schedule,
    x0: jax.Array,
    key: jax.Array,
    *,
    times: Any = None,
    variance: str = "fixed_large",
    decoder_levels: int | None = None,
    num_terms: int | None = None,
) -> Bound:
    """The variational bound of the chain that ancestral sampling runs, in bits per dimension.

    Args:
      denoise: (x_t [B, ...], t [B]) -> Denoised.
      schedule: the path.
      x0: data, [B, ...].
      key: a scalar key, or [B] keys, one an example; one draw of noise a step.
      times: the grid, [num_steps + 1], descending from 1 to 0; None for the T steps of a discrete
        schedule. As in a sampler, every grid is a model of its own.
      variance: of the steps, one of `variances.VARIANCES`.
      decoder_levels: the number of values that the data take in [-1, 1]: the bound is then on the
        probability of the data themselves. None for a bound on the density of x_0.
      num_terms: estimate the sum over the steps from this many, drawn for each example in equal
        strata of their shares of the log-SNR (the decoder's is always computed); None for all.

    Returns:
      Bound. With levels, bits per pixel; without, bits per dimension of x_0's own units
      (`bits_per_cell` converts).

    Raises:
      ValueError: for a grid that does not descend from 1 to 0, an unknown variance, levels or
        num_terms out of range, or a lattice given without its levels.

    Source: Ho et al. 2020, equation 5.
    """
    variances.check(variance)
    check_not_a_lattice(x0, decoder_levels, "decoder_levels")
    grid = _grid(schedule, times)
    inner = len(grid) - 2  # all steps but the last one, which the decoder takes
    if num_terms is not None and not 1 <= num_terms <= max(inner, 1):
        raise ValueError(
            f"need 1 <= num_terms <= {inner} steps besides the decoder, got {num_terms}"
        )
    keys = example_keys(key, len(x0))
    table = jnp.asarray(grid, jnp.promote_types(x0.dtype, jnp.float32))

    def term(step: jax.Array) -> jax.Array:
        """Of step [B], the one from time table[step] to table[step + 1]."""
        t, s = table[step], table[step + 1]
        xt = process.add_noise(schedule, x0, t, _noise(keys, step, x0))
        return terms.vlb_term(
            schedule, denoise(xt, t), x0, xt, s, t, variance=variance, decoder_levels=decoder_levels
        )

    decoder = term(jnp.full(len(x0), inner))
    shares = _shares(schedule, table[:-1])

    def add(total: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
        if num_terms is None:
            return total + term(jnp.full(len(x0), k)), None
        place = (k + _uniform(keys, inner + 1 + k)) / num_terms
        step = jnp.searchsorted(jnp.cumsum(shares)[:-1], place, side="right")
        return total + term(step) / (num_terms * shares[step]), None

    count = inner if num_terms is None else min(num_terms, inner)
    total, _ = jax.lax.scan(add, jnp.zeros_like(decoder), jnp.arange(count))
    return _in_bits(terms.prior_kl(schedule, x0), total, decoder)


def continuous_vlb(
    denoise: Denoiser,
    schedule: Schedule,
    x0: jax.Array,
    key: jax.Array,
    *,
    t_min: float | None = None,
    num_draws: int = 128,
    decoder_levels: int | None = None,
) -> Bound:
    """The variational bound of infinitely many steps down to t_min, then the decoder, in bits.

    The integral 1/2 E |eps - eps-hat|² over the log-SNR from that of t = 1 to that of t_min, which
    is 1/2 E[-d log_snr / dt |eps - eps-hat|²] over t. Draws are uniform in log-SNR, one in each
    of num_draws equal strata: the integrand then lies between 0 and about 1, on any schedule. The
    decoder is N(x_0-hat, (sigma / alpha)² I) at t_min.

    Args:
      denoise, schedule, x0, key: as in `discrete_vlb`.
      t_min: where the integral stops, in [0, 1); None for `first_time(schedule)`.
      num_draws: times an example.
      decoder_levels: as in `discrete_vlb`.

    Returns:
      Bound, as `discrete_vlb`. It holds on average over the draws.

    Raises:
      ValueError: for t_min or num_draws out of range, or a lattice given without its levels.

    Source: Kingma et al. 2021 (VDM), equations 11, 12 and 18.
    """
    check_not_a_lattice(x0, decoder_levels, "decoder_levels")
    if num_draws < 1:
        raise ValueError(f"need num_draws >= 1, got {num_draws=}")
    keys = example_keys(key, len(x0))
    high, low = log_snr_range(schedule, t_min, jnp.promote_types(x0.dtype, jnp.float32))

    def noised(log_snr: jax.Array, draw: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        t = schedules.time_of_log_snr(schedule, log_snr)
        eps = _noise(keys, draw, x0)
        return process.add_noise(schedule, x0, t, eps), t, eps

    def add(total: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
        share = (k + _uniform(keys, num_draws + 1 + k)) / num_draws
        xt, t, eps = noised(low + (high - low) * share, jnp.full(len(x0), k))
        return total + terms.mean_of_dimensions((eps - denoise(xt, t).eps) ** 2), None

    xt, t, _ = noised(jnp.full(len(x0), high), jnp.full(len(x0), num_draws))
    decoder = terms.decoder_nll(x0, denoise(xt, t).x0, expand(-high, x0), decoder_levels)
    decoder = terms.mean_of_dimensions(decoder)
    total, _ = jax.lax.scan(add, jnp.zeros_like(decoder), jnp.arange(num_draws))
    denoising = 0.5 * (high - low) / num_draws * total
    return _in_bits(terms.prior_kl(schedule, x0), denoising, decoder)


def first_time(schedule: Schedule) -> float:
    """The time that stands for the data: 1/T, or on a continuous path where log-SNR is 13.3.

    0 where a path begins noisier than that.
    """
    if schedule.betas is not None:
        return 1 / schedule.num_steps
    start = schedule.values(np.zeros(1))
    # Not by the inverse: within a rounding of the path's beginning it gives a time, 1e-17 or so.
    if start[1] > 0 and 2 * np.log(start[0] / start[1]) <= MAX_LOG_SNR + 1e-6:
        return 0.0
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return float(schedules.time_of_log_snr(schedule, jnp.float64(MAX_LOG_SNR)))


def log_snr_range(
    schedule: Schedule, t_min: float | None, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """The log-SNR at t_min and at t = 1, scalars; at least -20.

    Raises:
      ValueError: for t_min outside [0, 1), or where the data are not noised at all.
    """
    first = t_min
    if first is None:
        first = 0.0 if schedule.betas is None else 1 / schedule.num_steps
    if not 0 <= first < 1:
        raise ValueError(f"need 0 <= t_min < 1, got {t_min=}")
    high, low = (schedule.log_snr(jnp.asarray(t, dtype)) for t in (first, 1.0))
    if t_min is None and schedule.betas is None:
        # Not by way of `first_time`: the schedule may be traced.
        high = jnp.minimum(high, MAX_LOG_SNR)
    if t_min == 0 and not isinstance(high, jax.core.Tracer) and not math.isfinite(high):
        raise ValueError(f"{t_min=} has no noise on this path: take t_min above 0, say 1e-4")
    return high, jnp.maximum(low, MIN_LOG_SNR)


def example_keys(key: jax.Array, batch: int) -> jax.Array:
    """[batch] keys, from as many or from a scalar one.

    Raises:
      ValueError: for another number of keys.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.shape not in ((), (batch,)):
        raise ValueError(f"need a scalar key or one for each of {batch}, got {key.shape}")
    if key.ndim:
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def check_not_a_lattice(x0: jax.Array, levels: int | None, argument: str) -> None:
    """Raises ValueError for levels below 2, or for data on a lattice whose levels are None.

    A density on a lattice can be as large as you like: it scores the width of the spikes. What is
    seen: few values for so many numbers, or values that are multiples of one step. Within jit the
    data cannot be looked at, and are not.
    """
    if levels is not None:
        return terms.check_levels(levels)
    if isinstance(x0, jax.core.Tracer):
        return None
    examples = np.unique(np.asarray(x0).reshape(len(x0), -1), axis=0)  # one may be asked for twice
    values = np.unique(examples)
    few = examples.size >= 64 and len(values) <= examples.size // 8
    # Six or more free values of a density fall on one lattice with probability 1e-10.
    if few or (len(values) >= 8 and _equidistant(values)):
        raise ValueError(
            f"{argument}=None, but x0 takes only {len(values)} values: state their number "
            f"(256 for 8-bit images), or spread the data with `dequantise`"
        )
    return None


def _equidistant(values: np.ndarray) -> bool:
    """Whether ascending values lie on a lattice of their smallest distance, up to rounding."""
    strides = np.diff(values.astype(np.float64))
    multiples = strides / strides.min()
    return bool(np.all(np.abs(multiples - np.rint(multiples)) < 0.01))


def _grid(schedule: Schedule, times: Any) -> np.ndarray:
    if times is None:
        times = np.arange(schedule.num_steps, -1, -1) / schedule.num_steps
    times = np.asarray(times, np.float64)
    ends_well = times.ndim == 1 and len(times) >= 2 and (times[0], times[-1]) == (1, 0)
    if not (ends_well and np.all(np.diff(times) < 0)):
        raise ValueError(
            f"times must descend strictly from 1 to 0, [num_steps + 1], got {times.shape} "
            f"{times.ravel()[:1]} ... {times.ravel()[-1:]}; see ddpm_jax.samplers.grids"
        )
    return times


def _shares(schedule: Schedule, times: jax.Array) -> jax.Array:
    """The probabilities of the steps between these times: nearly their shares of the log-SNR.

    A step's divergence is about half its rise of log-SNR times an error between 0 and 1. A tenth is
    shared evenly, so that no step that matters has a probability near 0.
    """
    bound = -MIN_LOG_SNR
    rises = jnp.diff(jnp.clip(schedule.log_snr(times), -bound, bound))
    return 0.9 * rises / rises.sum() + 0.1 / max(len(times) - 1, 1)


def _noise(keys: jax.Array, draw: jax.Array, like: jax.Array) -> jax.Array:
    """Standard normal noise like `like` [B, ...]: of draw [B], whatever else is drawn."""
    folded = jax.vmap(jax.random.fold_in)(keys, draw)
    return jax.vmap(lambda k: jax.random.normal(k, like.shape[1:], like.dtype))(folded)


def _uniform(keys: jax.Array, draw: jax.Array) -> jax.Array:
    """A uniform number an example, [B]; of a scalar draw."""
    return jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, draw)))(keys)


def _in_bits(prior: jax.Array, denoising: jax.Array, decoder: jax.Array) -> Bound:
    prior, denoising, decoder = (x / math.log(2) for x in (prior, denoising, decoder))
    return Bound(prior + denoising + decoder, prior, denoising, decoder)

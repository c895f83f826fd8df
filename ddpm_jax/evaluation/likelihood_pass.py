"""The likelihood protocol: which figures a model may be given, and a full pass over a split."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import likelihood
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.runtime import compiling
from ddpm_jax.samplers import grids

# (params, x0 [B, ...], keys [B]) -> bits per dimension by name, [B] each
Score = Callable[[Any, jax.Array, jax.Array], dict[str, jax.Array]]


class MeanAndError(NamedTuple):
    """A mean over examples and its standard error."""

    mean: float
    standard_error: float


def make_score(
    denoiser: Callable[[Any], Denoiser],
    schedule: Schedule,
    *,
    levels: int | None,
    dequantised: bool,
    integrate: likelihood.Integrator,
    times: Any = None,
    variance: str = "fixed_large",
    num_terms: int | None = None,
    num_draws: int = 128,
    num_probes: int | None = 1,
    t_min: float | None = None,
) -> Score:
    """What scores a batch of pixels, all of it in bits per pixel.

    A model trained on dequantised data is a density: the discrete bound, the continuous one and the
    probability-flow ODE score the pixels spread over their cells, one draw an example, the same
    for all three; cells have width 1. A model trained on the lattice of pixel values is scored by
    the discrete bound with a decoder of so many levels, and by no density: that would be the width
    of its spikes.

    Args:
      denoiser: params -> Denoiser.
      schedule: the path.
      levels: the number of values that a pixel takes, equidistant in [-1, 1].
      dequantised: the model was trained on `likelihood.dequantise`d data.
      integrate: as in `likelihood.probability_flow`.
      times, variance, num_terms: of `likelihood.discrete_vlb`.
      num_draws: of `likelihood.continuous_vlb`.
      num_probes: of `likelihood.probability_flow`.
      t_min: of both.

    Returns:
      (params, x0 [B, ...], keys [B]) -> {"discrete_vlb", "discrete_prior", "discrete_denoising",
      "discrete_decoder", and for a density the like of "continuous_", and "ode"}.

    Raises:
      ValueError: if the levels are not stated, or fewer than 2.
    """
    if levels is None:
        raise ValueError(
            "levels=None: state the number of values that a pixel takes (256 for 8-bit images, "
            "DataInfo.levels of a data source)"
        )
    per_cell = float(likelihood.bits_per_cell(jnp.zeros(()), levels))

    def named(kind: str, bound: likelihood.Bound) -> dict[str, jax.Array]:
        shift = per_cell if dequantised else 0.0
        return {
            f"{kind}_vlb": bound.total + shift,
            f"{kind}_prior": bound.prior,
            f"{kind}_denoising": bound.denoising,
            f"{kind}_decoder": bound.decoder + shift,
        }

    def score(params: Any, x0: jax.Array, keys: jax.Array) -> dict[str, jax.Array]:
        denoise = denoiser(params)
        key_cells, *key_scores = jnp.moveaxis(
            jax.vmap(lambda k: jax.random.split(k, 4))(keys), 1, 0
        )
        if dequantised:
            x0 = likelihood.dequantise(key_cells, x0, levels)
        discrete = likelihood.discrete_vlb(
            denoise,
            schedule,
            x0,
            key_scores[0],
            times=times,
            variance=variance,
            decoder_levels=None if dequantised else levels,
            num_terms=num_terms,
        )
        if not dequantised:
            return named("discrete", discrete)
        continuous = likelihood.continuous_vlb(
            denoise, schedule, x0, key_scores[1], t_min=t_min, num_draws=num_draws
        )
        bits = likelihood.probability_flow(
            denoise,
            schedule,
            x0,
            key_scores[2],
            integrate=integrate,
            num_probes=num_probes,
            t_min=t_min,
        )
        ode = {"ode": bits + per_cell}
        return named("discrete", discrete) | named("continuous", continuous) | ode

    return score


def chain_times(schedule: Schedule, num_steps: int) -> np.ndarray | None:
    """The grid of the chain that is scored: `times` of `likelihood.discrete_vlb`.

    None, its own steps, for a discrete schedule. Otherwise num_steps steps that are equal in
    log-SNR, from t = 1 to the noise that stands for the data (`likelihood.first_time`), then to 0.

    Raises:
      ValueError: for fewer than 2 steps.
    """
    if schedule.betas is not None:
        return None
    if num_steps < 2:
        raise ValueError(f"need num_steps >= 2, got {num_steps=}")
    log_snr_max = likelihood.MAX_LOG_SNR if likelihood.first_time(schedule) > 0 else None
    times = grids.log_snr_uniform(schedule, num_steps, log_snr_max=log_snr_max)
    times[0] = 1.0  # a path to alpha = 0 has its prior there
    return times


def full_pass(
    score: Score, params: Any, images: np.ndarray, *, seed: int = 0, batch_size: int = 64
) -> dict[str, MeanAndError]:
    """The mean of every score over all examples, with the standard error of that mean.

    The draws for example k follow from (seed, k), whatever the batch size; the last batch is padded
    with the last example.

    Args:
      score: from `make_score`.
      params: the network's.
      images: float [N, ...] in [-1, 1], N >= 2.
      seed: of all draws.
      batch_size: at least 1.

    Raises:
      ValueError: for fewer than 2 examples (there is no standard error), or a batch size below 1.
    """
    if len(images) < 2 or batch_size < 1:
        raise ValueError(
            f"need at least 2 images and batch_size >= 1, got {len(images)} and {batch_size=}"
        )
    compiled = compiling.jit(score)
    key = jax.random.key(seed)
    collected: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(images), batch_size):
        index = np.arange(start, start + batch_size)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        batch = jnp.asarray(images[np.minimum(index, len(images) - 1)])
        for name, bits in compiled(params, batch, keys).items():
            real = np.asarray(bits, np.float64)[index < len(images)]
            collected.setdefault(name, []).append(real)
    return {name: _figure(np.concatenate(bits)) for name, bits in collected.items()}


def _figure(values: np.ndarray) -> MeanAndError:
    return MeanAndError(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))

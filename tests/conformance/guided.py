"""What guided sampling draws on two overlapping modes, beside the laws that it might be taken for.

The data are one number: half N(-1, 0.5), half N(1, 0.5), and the condition is the second half. With
r(x) = p(condition | x), the tilted density is p(x) r(x)^w up to a factor; at w = 1 it is the
conditional density.
"""

from typing import NamedTuple

import jax
import numpy as np
import oracles

from ddpm_jax import samplers
from ddpm_jax.diffusion import guidance, schedules
from ddpm_jax.samplers import grids

DATA = oracles.Mixture([0.5, 0.5], [[-1.0], [1.0]], [0.5, 0.5])
CONDITION = 1
SCHEDULE = schedules.vp_continuous()
EDGES = np.linspace(-4, 6, 101)


class Guided(NamedTuple):
    """Guided samples beside the tilted and the conditional density.

    Attributes:
      samples: the density of the samples in the bins of EDGES, as are the next three.
      tilted, conditional, data: densities; the last is p.
      from_tilted, from_conditional: total variation distances of the samples, over these bins.
      mean, tilted_mean: of the samples and of the tilted density.
      deviation, tilted_deviation: alike.
    """

    samples: np.ndarray
    tilted: np.ndarray
    conditional: np.ndarray
    data: np.ndarray
    from_tilted: float
    from_conditional: float
    mean: float
    tilted_mean: float
    deviation: float
    tilted_deviation: float


def tilted_density(x: np.ndarray, scale: float) -> np.ndarray:
    """p(x) r(x)^w of the textbook, scaled so that it sums to 1 over the even grid x."""
    logs = np.array(
        [
            np.log(weight) - 0.5 * (x - mean[0]) ** 2 / variance - 0.5 * np.log(variance)
            for weight, mean, variance in zip(DATA.weights, DATA.means, DATA.variances, strict=True)
        ]
    )
    log_data = np.logaddexp.reduce(logs, axis=0)
    log_density = log_data + scale * (logs[CONDITION] - log_data)
    density = np.exp(log_density - log_density.max())
    return density / (density.sum() * (x[1] - x[0]))


def measure(scale: float, count: int = 100_000, num_steps: int = 60) -> Guided:
    """Samples of classifier-free guidance with exact denoisers, by an ODE solver of third order."""
    guided = guidance.classifier_free(
        DATA.component(CONDITION).denoiser(SCHEDULE), DATA.denoiser(SCHEDULE), scale
    )
    times = grids.log_snr_uniform(SCHEDULE, num_steps)

    @jax.jit
    def draw(key: jax.Array) -> jax.Array:
        x = samplers.initial_noise(key, SCHEDULE, times, (count, 1))
        return samplers.dpm_solver_pp(guided, SCHEDULE, times, key, x, order=3)

    x0 = np.asarray(draw(jax.random.key(0)), np.float64)[:, 0]
    width = EDGES[1] - EDGES[0]
    fine = (np.arange(50) + 0.5) / 50 * width + EDGES[:-1, None]
    tilted, conditional, data = (
        tilted_density(fine.ravel(), w).reshape(fine.shape) for w in (scale, 1.0, 0.0)
    )
    # What lies outside of the bins, if anything, counts as different.
    samples = np.histogram(x0, EDGES)[0] / (count * width)
    mean = float((tilted * fine).mean(axis=1).sum() * width)
    square = float((tilted * fine**2).mean(axis=1).sum() * width)
    densities = [density.mean(axis=1) for density in (tilted, conditional, data)]
    outside = 1 - samples.sum() * width
    distances = [
        float(0.5 * (np.abs(samples - one).sum() * width + outside)) for one in densities[:2]
    ]
    return Guided(
        samples,
        *densities,
        *distances,
        float(x0.mean()),
        mean,
        float(x0.std()),
        (square - mean**2) ** 0.5,
    )

"""Likelihood on Gaussian data, three ways, beside the truth."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles

from ddpm_jax.diffusion import likelihood, schedules
from ddpm_jax.samplers import ode

BITS = 1 / np.log(2)
VARIANCES = (1.0, 0.25, 0.05)
BOUND = 0.01  # bits a dimension


class Excess(NamedTuple):
    """Bits a dimension above the truth, the mean over examples, and its standard error."""

    mean: float
    error: float


def _above(bits: jax.Array, data: oracles.Gaussian, x0: jax.Array) -> Excess:
    truth = -data.log_density(schedules.flow(), x0, 0.0) / x0[0].size * BITS
    excess = np.asarray(bits - truth, np.float64)
    return Excess(float(excess.mean()), float(excess.std() / len(excess) ** 0.5))


def discrete(variance: float, fixed: str) -> Excess:
    """Of the chain of 1000 steps on the linear schedule with a continuous Gaussian decoder."""
    data, schedule = oracles.Gaussian(0.0, variance), schedules.linear()
    x0 = data.sample(jax.random.key(0), (64, 8192))
    denoise = data.denoiser(schedule)

    @jax.jit
    def bits(x0: jax.Array) -> jax.Array:
        key = jax.random.key(1)
        return likelihood.discrete_vlb(denoise, schedule, x0, key, variance=fixed).total

    return _above(bits(x0), data, x0)


def continuous(variance: float) -> Excess:
    """Of VDM's bound on the same path."""
    data, schedule = oracles.Gaussian(0.0, variance), schedules.linear()
    x0 = data.sample(jax.random.key(0), (128, 8192))
    denoise = data.denoiser(schedule)

    @jax.jit
    def bits(x0: jax.Array) -> jax.Array:
        key = jax.random.key(1)
        return likelihood.continuous_vlb(denoise, schedule, x0, key, num_draws=80).total

    return _above(bits(x0), data, x0)


def flow(variance: float) -> Excess:
    """Of the probability-flow ODE with the exact divergence, in float64."""
    data, schedule = oracles.Gaussian(0.0, variance), schedules.linear()
    with jax.enable_x64(True):
        x0 = data.sample(jax.random.key(0), (256, 2), jnp.float64)
        integrate = ode.integrator(1e-8, 1e-8)
        denoise = data.denoiser(schedule)

        @jax.jit
        def bits(x0: jax.Array) -> jax.Array:
            return likelihood.probability_flow(denoise, schedule, x0, integrate=integrate)

        return _above(bits(x0), data, x0)

"""Likelihood on Gaussian data, three ways, beside the truth."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles

from ddpm_jax.diffusion import likelihood, process, schedules
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


def _off(bound: likelihood.Bound) -> float:
    """How far the total is from the sum of its terms."""
    return float(jnp.abs(bound.total - (bound.prior + bound.denoising + bound.decoder)).max())


def discrete(variance: float, fixed: str) -> tuple[Excess, float]:
    """Of the chain of 1000 steps on the linear schedule with a continuous Gaussian decoder."""
    data, schedule = oracles.Gaussian(0.0, variance), schedules.linear()
    x0 = data.sample(jax.random.key(0), (64, 8192))
    denoise = data.denoiser(schedule)

    @jax.jit
    def bound(x0: jax.Array) -> likelihood.Bound:
        key = jax.random.key(1)
        return likelihood.discrete_vlb(denoise, schedule, x0, key, variance=fixed)

    found = bound(x0)
    return _above(found.total, data, x0), _off(found)


def continuous(variance: float) -> tuple[Excess, float]:
    """Of VDM's bound on the same path."""
    data, schedule = oracles.Gaussian(0.0, variance), schedules.linear()
    x0 = data.sample(jax.random.key(0), (128, 8192))
    denoise = data.denoiser(schedule)

    @jax.jit
    def bound(x0: jax.Array) -> likelihood.Bound:
        key = jax.random.key(1)
        return likelihood.continuous_vlb(denoise, schedule, x0, key, num_draws=80)

    found = bound(x0)
    return _above(found.total, data, x0), _off(found)


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


class Terms(NamedTuple):
    """The expected terms of the chain's bound on Gaussian data, bits a dimension, and their sum."""

    prior: float
    denoising: float
    decoder: float

    @property
    def total(self) -> float:
        """The bound."""
        return sum(self)


def closed_form(variance: float, fixed: str) -> Terms:
    """Each term by itself, in the textbook's symbols, of N(0, variance) and its exact denoiser."""
    betas, bars = _chain()
    of_x0 = np.sqrt(bars[:-1]) * betas / (1 - bars[1:])  # Ho et al. 2020, equation 7
    posterior = variance * (1 - bars[1:]) / (bars[1:] * variance + 1 - bars[1:])  # of x_0 by x_i
    tilde, step = _variances(betas, bars, fixed)
    # KL(q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i)) of two normals, i = 2..T.
    error = of_x0**2 * posterior
    kl = 0.5 * (np.log(step / tilde) + (tilde + error) / step - 1)[1:]
    prior = 0.5 * bars[-1] / (1 - bars[-1]) * variance
    decoder = 0.5 * (np.log(2 * np.pi * step[0]) + posterior[0] / step[0])
    return Terms(*(float(term * BITS) for term in (prior, kl.sum(), decoder)))


def gap(variance: float, fixed: str) -> float:
    """The chain's bound above the truth: KL(q(x_{i-1} | x_i) || p(x_{i-1} | x_i)), summed, in bits.

    Both are normal and of one mean; the prior's divergence KL(q(x_T) || p(x_T)) comes on top.
    """
    betas, bars = _chain()
    marginal = bars * variance + 1 - bars
    # Of a jointly normal pair, x_i = sqrt(1 - beta) x_{i-1} + noise.
    true = marginal[:-1] - (1 - betas) * marginal[:-1] ** 2 / marginal[1:]
    ratio = true / _variances(betas, bars, fixed)[1]
    end = marginal[-1] / (1 - bars[-1])
    return float(0.5 * (np.sum(ratio - 1 - np.log(ratio)) + end - 1 - np.log(end)) * BITS)


def entropy(variance: float) -> float:
    """Of N(0, variance), the truth's expectation, in bits."""
    return float(0.5 * np.log(2 * np.pi * np.e * variance) * BITS)


def expected(variance: float, fixed: str) -> Terms:
    """The same terms as the package computes them, in float64 and without a draw.

    x_0 and eps take the four pairs (+-sqrt(variance), +-1), which have the second moments of
    N(0, variance) and N(0, 1): the mean of what is quadratic is its exact expectation.
    """
    schedule = schedules.linear()
    denoise = oracles.Gaussian(0.0, variance).denoiser(schedule)
    with jax.enable_x64(True):
        x0 = jnp.array([[1.0], [1.0], [-1.0], [-1.0]]) * variance**0.5
        eps = jnp.array([[1.0], [-1.0], [1.0], [-1.0]])

        def term(_: None, i: jax.Array) -> tuple[None, jax.Array]:
            s, t = (jnp.full(4, j / schedule.num_steps) for j in (i - 1, i))
            xt = process.add_noise(schedule, x0, t, eps)
            out = denoise(xt, t)
            return None, likelihood.vlb_term(schedule, out, x0, xt, s, t, variance=fixed).mean()

        steps = jnp.arange(1, schedule.num_steps + 1)
        terms = np.asarray(jax.jit(lambda: jax.lax.scan(term, None, steps)[1])())
        prior = float(likelihood.prior_kl(schedule, x0).mean())
    return Terms(*(float(x * BITS) for x in (prior, terms[1:].sum(), terms[0])))


def _chain() -> tuple[np.ndarray, np.ndarray]:
    """The linear schedule's betas, [T], and alpha_bar, [T + 1], in extended precision."""
    betas = np.asarray(schedules.linear().betas, np.longdouble)
    return betas, oracles.exact_alphas_cumprod(betas)


def _variances(betas: np.ndarray, bars: np.ndarray, fixed: str) -> tuple[np.ndarray, np.ndarray]:
    """beta-tilde and the chain's own, step by step; the decoder's is that of step 2 if small."""
    tilde = betas * (1 - bars[:-1]) / (1 - bars[1:])
    tilde[0] = tilde[1]
    return tilde, betas if fixed == "fixed_large" else tilde

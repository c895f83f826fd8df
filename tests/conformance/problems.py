"""The problems that samplers are measured on, and their solutions from outside the package.

In y = x / alpha and rho = sigma / alpha the probability-flow ODE is dy / d rho = eps-hat(y, rho),
and the posterior mean of x_0 depends on (y, rho) alone. So one reference solution, by scipy in
numpy, serves every Gaussian path, and shares no code with the package.
"""

import functools

import jax
import numpy as np
import oracles
from scipy import integrate, special

from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import base

MIXTURE = oracles.Mixture([0.5, 0.3, 0.2], [[-1.0, 0.5], [1.0, 0.0], [0.2, -1.0]], [0.2, 0.1, 0.3])
# Paths on which the mixture is solved between equal half log-SNRs.
PATHS = {
    "vp": schedules.vp_continuous(),
    "sub_vp": schedules.sub_vp(),
    "cosine": schedules.cosine_continuous(),
    "ve": schedules.ve(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
}
# Half log-SNRs log(alpha / sigma) of a solve. Before -2.3 the denoiser is flat (it answers the
# data's mean), after 1.5 the modes have parted: the bends of the path lie between.
START, END = -2.3, 1.5


def posterior_mean(y: np.ndarray, rho: float) -> np.ndarray:
    """E[x_0 | x_0 + rho eps = y] of MIXTURE, y [B, d]: Bayes' rule for each component."""
    weights, means, variances = map(np.asarray, (MIXTURE.weights, MIXTURE.means, MIXTURE.variances))
    spread = variances + rho**2
    residual = y[:, None] - means
    logits = np.log(weights) - 0.5 * (residual**2).sum(-1) / spread
    share = special.softmax(logits - 0.5 * y.shape[1] * np.log(spread), axis=1)
    each = means + (variances / spread)[:, None] * residual
    return (share[:, :, None] * each).sum(axis=1)


def starts(lam: float, count: int = 16) -> np.ndarray:
    """Points y = x / alpha at half log-SNR lam, about as noised data lie, [count, 2]."""
    return np.exp(-lam) * np.random.default_rng(0).standard_normal((count, 2))


@functools.cache
def solution(start: float = START, end: float = END) -> np.ndarray:
    """y at half log-SNR `end` of the flow through `starts(start)`, to about 1e-12."""
    y0 = starts(start)

    def slope(u: float, y: np.ndarray) -> np.ndarray:
        # u = log rho: dy / du = rho eps-hat = y - x_0-hat.
        y = y.reshape(y0.shape)
        return (y - posterior_mean(y, np.exp(u))).ravel()

    found = integrate.solve_ivp(
        slope, (-start, -end), y0.ravel(), method="DOP853", rtol=1e-13, atol=1e-14
    )
    assert found.success, found.message
    return found.y[:, -1].reshape(y0.shape)


def grid(path: str, num_steps: int, spacing: str = "lam", start: float = START) -> np.ndarray:
    """Times from half log-SNR `start` to END on a path.

    spacing: "lam", equal strides of it; "time", equal strides of t; "karras", of rho^(1/7).
    """
    schedule = PATHS[path]
    share = np.linspace(0, 1, num_steps + 1)
    if spacing == "time":
        first, last = base.times_of(schedule, np.array([start, END]))
        return first + share * (last - first)
    if spacing == "karras":
        first, last = np.exp(-start / 7), np.exp(-END / 7)
        return base.times_of(schedule, -7 * np.log(first + share * (last - first)))
    return base.times_of(schedule, start + share * (END - start))


def solve(sampler, path: str, times: np.ndarray, start: float = START) -> np.ndarray:
    """y at the end of the grid, as the sampler finds it in float64."""
    schedule = PATHS[path]
    with jax.enable_x64(True):
        alpha, _ = schedule.values(times[[0, -1]])
        x = jax.numpy.asarray(alpha[0] * starts(start))
        denoise = MIXTURE.denoiser(schedule)
        run = jax.jit(lambda x: sampler(denoise, schedule, times, jax.random.key(0), x))
        return np.asarray(run(x)) / alpha[1]

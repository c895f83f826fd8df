"""Data whose every diffusion quantity is known in closed form, under any Schedule.

Each kind of data has `sample`, and four functions of the noised data at time t:

    log_density(schedule, xt, t)    log q(x_t), [B]
    score(schedule, xt, t)          its gradient
    denoiser(schedule)              the exact Denoised: E[x_0 | x_t] and E[eps | x_t]
    flow_map(schedule, xt, t, s)    the exact solution of the probability-flow ODE (where known)

They divide by neither alpha nor sigma, so they hold on paths that reach alpha = 0, and they are as
precise as their inputs: give them float64 inside `jax.enable_x64(True)`. `tests/diffusion/
test_oracles.py` checks them against automatic differentiation, quadrature and simulation.

`ancestral_law` follows that sampler's mean and variance in numpy, from the textbook's beta and
alpha_bar; it shares no code with the package.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.prediction import Denoised, Denoiser
from ddpm_jax.diffusion.schedules import Schedule


def _levels(schedule: Schedule, x: jax.Array, t: Any) -> tuple[jax.Array, ...]:
    """alpha and sigma at t (a scalar or [B]), spread over x [B, ...]."""
    t = jnp.asarray(t, x.dtype)
    t = t.reshape(t.shape + (1,) * (x.ndim - t.ndim))
    return tuple(jnp.broadcast_to(level(t), x.shape) for level in (schedule.alpha, schedule.sigma))


def _spread(value: Any, x: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(value, x.dtype), x.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian:
    """x_0 ~ N(mean, variance), independent components; each a number or of x's shape without B.

    Variance 0 is a point mass at the mean.
    """

    mean: Any
    variance: Any

    def sample(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        z = jax.random.normal(key, shape, dtype)
        return _spread(self.mean, z) + jnp.sqrt(_spread(self.variance, z)) * z

    def log_density(self, schedule: Schedule, xt: jax.Array, t: Any) -> jax.Array:
        alpha, _ = _levels(schedule, xt, t)
        variance = self._variance(schedule, xt, t)
        residual = xt - alpha * _spread(self.mean, xt)
        terms = -0.5 * (residual**2 / variance + jnp.log(2 * jnp.pi * variance))
        return terms.reshape(len(xt), -1).sum(axis=1)

    def score(self, schedule: Schedule, xt: jax.Array, t: Any) -> jax.Array:
        alpha, _ = _levels(schedule, xt, t)
        return (alpha * _spread(self.mean, xt) - xt) / self._variance(schedule, xt, t)

    def denoiser(self, schedule: Schedule) -> Denoiser:
        def denoise(xt: jax.Array, t: jax.Array) -> Denoised:
            alpha, sigma = _levels(schedule, xt, t)
            mean, variance = _spread(self.mean, xt), _spread(self.variance, xt)
            standard = (xt - alpha * mean) / self._variance(schedule, xt, t)
            return Denoised(mean + alpha * variance * standard, sigma * standard)

        return denoise

    def flow_map(self, schedule: Schedule, xt: jax.Array, t: Any, s: Any) -> jax.Array:
        """x_s of the probability-flow ODE through x_t: quantiles of one Gaussian to the other."""
        (alpha_t, _), (alpha_s, _) = _levels(schedule, xt, t), _levels(schedule, xt, s)
        mean = _spread(self.mean, xt)
        ratio = self._variance(schedule, xt, s) / self._variance(schedule, xt, t)
        return alpha_s * mean + jnp.sqrt(ratio) * (xt - alpha_t * mean)

    def _variance(self, schedule: Schedule, xt: jax.Array, t: Any) -> jax.Array:
        alpha, sigma = _levels(schedule, xt, t)
        return alpha**2 * _spread(self.variance, xt) + sigma**2


def point_mass(x0: Any) -> Gaussian:
    """All data at x0, of x's shape without B: the exact denoiser always answers x0."""
    return Gaussian(x0, 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """x_0 ~ sum_k weights[k] N(means[k], variances[k] I) on data [B, d].

    Attributes:
      weights: [K], summing to 1.
      means: [K, d].
      variances: [K].
    """

    weights: Any
    means: Any
    variances: Any

    def sample(self, key: jax.Array, batch: int, dtype: Any = jnp.float32) -> jax.Array:
        key_component, key_noise = jax.random.split(key)
        log_weights = jnp.log(jnp.asarray(self.weights))
        component = jax.random.categorical(key_component, log_weights, shape=(batch,))
        means = jnp.asarray(self.means, dtype)[component]
        std = jnp.sqrt(jnp.asarray(self.variances, dtype))[component][:, None]
        return means + std * jax.random.normal(key_noise, means.shape, dtype)

    def log_density(self, schedule: Schedule, xt: jax.Array, t: Any) -> jax.Array:
        return jax.nn.logsumexp(self._joint_log_density(schedule, xt, t), axis=0)

    def score(self, schedule: Schedule, xt: jax.Array, t: Any) -> jax.Array:
        scores = [component.score(schedule, xt, t) for component in self._components()]
        return self._average(schedule, xt, t, scores)

    def denoiser(self, schedule: Schedule) -> Denoiser:
        def denoise(xt: jax.Array, t: jax.Array) -> Denoised:
            parts = [component.denoiser(schedule)(xt, t) for component in self._components()]
            x0 = self._average(schedule, xt, t, [part.x0 for part in parts])
            return Denoised(x0, self._average(schedule, xt, t, [part.eps for part in parts]))

        return denoise

    def component(self, k: int) -> Gaussian:
        """The data of class k alone."""
        return Gaussian(self.means[k], self.variances[k])

    def log_posterior(self, schedule: Schedule, xt: jax.Array, t: Any) -> jax.Array:
        """log p(class k | x_t), [B, K]: what an exact noise-aware classifier says."""
        joint = self._joint_log_density(schedule, xt, t)
        return (joint - jax.nn.logsumexp(joint, axis=0, keepdims=True)).T

    def inpainted(self, known: Any, mask: Any) -> "Mixture":
        """The law of the entries of x_0 where mask [d] is 1, given the `known` [d] others."""
        means, variances = (
            np.asarray(self.means, np.float64),
            np.asarray(self.variances, np.float64),
        )
        free = np.asarray(mask, bool)
        distance = ((np.asarray(known, np.float64) - means)[:, ~free] ** 2).sum(axis=1)
        log_weights = np.log(self.weights) - 0.5 * distance / variances
        log_weights -= 0.5 * (~free).sum() * np.log(variances)
        weights = np.exp(log_weights - log_weights.max())
        return Mixture(weights / weights.sum(), means[:, free], variances)

    def _components(self) -> list[Gaussian]:
        return [self.component(k) for k in range(len(self.weights))]

    def _joint_log_density(self, schedule: Schedule, xt: jax.Array, t: Any) -> jax.Array:
        """log q(x_t, k), [K, B]."""
        return jnp.stack(
            [
                jnp.log(jnp.asarray(weight, xt.dtype)) + component.log_density(schedule, xt, t)
                for weight, component in zip(self.weights, self._components(), strict=True)
            ]
        )

    def _average(
        self, schedule: Schedule, xt: jax.Array, t: Any, values: list[jax.Array]
    ) -> jax.Array:
        """The mean of values [K][B, d] under q(k | x_t)."""
        responsibility = jax.nn.softmax(self._joint_log_density(schedule, xt, t), axis=0)
        return (responsibility[:, :, None] * jnp.stack(values)).sum(axis=0)


def exact_alphas_cumprod(betas: np.ndarray) -> np.ndarray:
    """alpha_bar_0 .. alpha_bar_T as products in extended precision, [T + 1]."""
    return np.concatenate([[1], np.cumprod(1 - np.asarray(betas, np.longdouble))])


def ancestral_law(
    betas: np.ndarray, nodes: np.ndarray, mean: float, variance: float, fixed: str
) -> tuple[float, float]:
    """Mean and variance of ancestral sampling's result, on data N(mean, variance), exact denoiser.

    The start is N(0, 1 - alpha_bar). Every step is linear in x, so two numbers carry the law.

    Args:
      betas: [T].
      nodes: the steps i of the grid, descending, the last one 0.
      mean, variance: of the data.
      fixed: "fixed_small" or "fixed_large"; the last step adds no noise.
    """
    alphas_cumprod = exact_alphas_cumprod(betas)
    m, v = 0.0, 1 - alphas_cumprod[nodes[0]]
    for t, s in itertools.pairwise(nodes):
        bar_t, bar_s = alphas_cumprod[t], alphas_cumprod[s]
        beta = 1 - bar_t / bar_s  # of the respaced chain: Nichol & Dhariwal 2021, equation 19
        of_x0 = np.sqrt(bar_s) * beta / (1 - bar_t)  # Ho et al. 2020, equation 7
        of_xt = np.sqrt(1 - beta) * (1 - bar_s) / (1 - bar_t)
        slope = np.sqrt(bar_t) * variance / (bar_t * variance + 1 - bar_t)
        offset = mean - slope * np.sqrt(bar_t) * mean
        noise = beta if fixed == "fixed_large" else beta * (1 - bar_s) / (1 - bar_t)
        m = of_x0 * offset + (of_x0 * slope + of_xt) * m
        v = (of_x0 * slope + of_xt) ** 2 * v + (noise if s > 0 else 0)
    return float(m), float(v)

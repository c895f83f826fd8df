"""The law of a sampler's result on Gaussian data, exactly and by draws; exactness on a point mass.

On a Gaussian the exact denoiser is linear, so a step is linear in x and its noise, and the result
is slope x_start + offset + sum_k noise_k z_k. `linear_map` finds these numbers by sending unit
vectors through the sampler instead of noise; mean and variance then follow without a draw.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import oracles

from conformance import problems
from ddpm_jax import samplers
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.samplers import base, grids

part = functools.partial
DATA = oracles.Gaussian(0.6, 0.05)
Z_BOUND = 4.0  # in standard errors; of one test in 16,000 by chance


@dataclasses.dataclass(frozen=True)
class Noisy:
    """A sampler whose steps draw noise, and the order to which its variance tends to the data's."""

    sampler: Callable[..., Any]
    order: int


def _sde(order: int, **options: Any) -> Noisy:
    # Of second order in its noise, however high the order: docs/conformance.md says why.
    return Noisy(part(samplers.dpm_solver_pp, order=order, sde=True, **options), min(order, 2))


# Its last term has the wrong sign as published: it falls short of the others.
SIGN_ERROR = "SDE-DPM-Solver++ 3M, published"
NOISY = {
    "ancestral, fixed_small": Noisy(part(samplers.ancestral, variance="fixed_small"), 1),
    "ancestral, fixed_large": Noisy(part(samplers.ancestral, variance="fixed_large"), 1),
    "DDIM, eta 0.5": Noisy(part(samplers.ddim, eta=0.5), 1),
    "Euler ancestral": Noisy(samplers.euler_ancestral, 1),
    "EDM stochastic, S_churn 20": Noisy(part(samplers.edm_stochastic, S_churn=20.0), 2),
    "SDE-DPM-Solver++ 1": _sde(1),
    "SDE-DPM-Solver++ 2M": _sde(2),
    "SDE-DPM-Solver++ 3M": _sde(3),
    "SDE-DPM-Solver++ 2M, published": _sde(2, form="published"),
    SIGN_ERROR: _sde(3, form="published"),
}


class Law(NamedTuple):
    """Mean and variance of a number."""

    mean: float
    variance: float


class LinearMap(NamedTuple):
    """result = slope x_start + offset + sum of noise[k] z_k."""

    slope: float
    offset: float
    noise: np.ndarray

    def of(self, start: Law) -> Law:
        """The law of the result for a start of this law."""
        variance = self.slope**2 * start.variance + (self.noise**2).sum()
        return Law(self.slope * start.mean + self.offset, float(variance))


def linear_map(
    sampler: Callable[..., Any], schedule: Schedule, times: Any, data: oracles.Gaussian = DATA
) -> LinearMap:
    """The numbers of a sampler's result on Gaussian data with the exact denoiser, in float64."""
    draws = 4 * len(times)  # at most two evaluations a step, and two draws in each
    with jax.enable_x64(True), _unit_vectors_for_noise():
        # Component 0 carries the start, 1 the data's mean, 2 + k the k-th draw.
        means = np.zeros(2 + draws)
        means[1] = data.mean
        denoise = oracles.Gaussian(means, data.variance).denoiser(schedule)
        x = jnp.zeros((1, 2 + draws), jnp.float64).at[0, 0].set(1.0)
        run = jax.jit(lambda x: sampler(denoise, schedule, times, jax.random.key(0), x))
        out = np.asarray(run(x))[0]
    return LinearMap(float(out[0]), float(out[1]), out[2:])


@contextlib.contextmanager
def _unit_vectors_for_noise() -> Iterator[None]:
    """The k-th draw of a scan is 1 in component 2 + k of x [1, d], and 0 elsewhere."""

    def draw(index: jax.Array, like: jax.Array) -> jax.Array:
        return jax.nn.one_hot(index + 2, like.shape[1], dtype=like.dtype)[None]

    with (
        mock.patch.object(base, "fold_in", lambda keys, index: index),
        mock.patch.object(base, "normal", draw),
    ):
        yield


def marginal(schedule: Schedule, t: float, data: oracles.Gaussian = DATA) -> Law:
    """q(x_t)."""
    (alpha,), (sigma,) = schedule.values(np.array([t]))
    return Law(alpha * data.mean, alpha**2 * data.variance + sigma**2)


def bias(sampler: Callable[..., Any], path: str, num_steps: int) -> tuple[float, float]:
    """How far a sampler's mean and variance end from q(x_t)'s, started from q: exact, no draws.

    Both in units of q's own: the mean by its standard deviation, the variance relatively.
    """
    schedule, times = problems.PATHS[path], problems.grid(path, num_steps)
    truth = marginal(schedule, times[-1])
    law = linear_map(sampler, schedule, times).of(marginal(schedule, times[0]))
    return (
        abs(law.mean - truth.mean) / truth.variance**0.5,
        abs(law.variance / truth.variance - 1),
    )


def drawn(
    sampler: Callable[..., Any],
    data: Any,
    schedule: Schedule,
    times: Any,
    shape: tuple[int, ...],
    seed: int = 0,
) -> np.ndarray:
    """Samples by the sampler with real draws, in float32, from x = sigma noise."""
    key_start, key = jax.random.split(jax.random.key(seed))
    x = samplers.initial_noise(key_start, schedule, times, shape)
    denoise = data.denoiser(schedule)
    return np.asarray(jax.jit(lambda key, x: sampler(denoise, schedule, times, key, x))(key, x))


def scores(samples: np.ndarray, law: Law) -> tuple[float, float]:
    """z-scores of the samples' mean and variance against a normal law."""
    n = samples.size
    mean = (samples.mean(dtype=np.float64) - law.mean) / (law.variance / n) ** 0.5
    variance = (samples.var(dtype=np.float64) / law.variance - 1) / (2 / n) ** 0.5
    return float(mean), float(variance)


# On a point mass x_0-hat and eps-hat are constant along the flow: every solver is exact there.
EXACT_ON_A_POINT: dict[str, Callable[..., Any]] = {
    "DDIM": samplers.ddim,
    "Euler": samplers.euler,
    "Heun": samplers.heun,
    "DPM-Solver++ 3M": part(samplers.dpm_solver_pp, order=3),
    "DPM-Solver++ 3M, published": part(samplers.dpm_solver_pp, order=3, form="published"),
    "DPM-Solver++ 3S": part(samplers.dpm_solver_pp, order=3, method="singlestep"),
    "UniPC-3": part(samplers.unipc, order=3),
    "UniPC-3, published": part(samplers.unipc, order=3, form="published"),
}


def distance_from_the_flow_of_a_point(sampler: Callable[..., Any], path: str) -> float:
    """The largest |x - exact| at any time of a rough grid that ends at t = 0, in float64."""
    schedule, times = problems.PATHS[path], np.array([0.95, 0.9, 0.35, 0.3, 0.02, 0.0])
    data = oracles.point_mass(np.array([0.3, -0.8]))
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 2)))
        key = jax.random.key(0)
        _, states = sampler(
            data.denoiser(schedule), schedule, times, key, x, return_trajectory=True
        )
        exact = [data.flow_map(schedule, x, times[0], s) for s in times]
        return float(jnp.abs(states - jnp.stack(exact)).max())


class Check(NamedTuple):
    """A measured number, the truth, and how far apart they may be."""

    what: str
    measured: float
    truth: float
    bound: float


def mixture_checks(sampler: Callable[..., Any], num_steps: int, count: int) -> list[Check]:
    """Weights of the modes, means and covariances of draws of a mixture, beside the data's.

    The modes are 10 standard deviations apart, so each draw belongs to one without doubt. Bounds
    are Z_BOUND standard errors; a variance has in addition the bias that the same sampler has on a
    Gaussian of the mode's variance, known exactly (`linear_map`).
    """
    data = oracles.Mixture([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [0.04, 0.02])
    weights, means, variances = map(np.asarray, (data.weights, data.means, data.variances))
    schedule = problems.PATHS["vp"]
    times = grids.uniform(schedule, num_steps)
    samples = drawn(sampler, data, schedule, times, (count, 2)).astype(np.float64)
    mode = (samples[:, 0] > 0).astype(int)
    spread = float(schedule.values(np.array([1.0]))[1][0]) ** 2
    checks = []
    for k in (0, 1):
        chosen = samples[mode == k]
        share, n = weights[k], weights[k] * count
        checks.append(
            Check(
                f"weight of mode {k}",
                len(chosen) / count,
                share,
                Z_BOUND * (share * (1 - share) / count) ** 0.5,
            )
        )
        one = oracles.Gaussian(float(means[k, 0]), float(variances[k]))
        known = linear_map(sampler, schedule, times, one).of(Law(0.0, spread))
        bias = abs(known.variance - variances[k])
        covariance = np.cov(chosen.T)
        for axis in (0, 1):
            mean = Check(
                f"mean {axis} of mode {k}",
                chosen[:, axis].mean(),
                means[k, axis],
                Z_BOUND * (variances[k] / n) ** 0.5,
            )
            variance = Check(
                f"variance {axis} of mode {k}",
                covariance[axis, axis],
                variances[k],
                Z_BOUND * variances[k] * (2 / n) ** 0.5 + bias,
            )
            checks += [mean, variance]
        off = Check(
            f"covariance of mode {k}", covariance[0, 1], 0.0, Z_BOUND * variances[k] / n**0.5
        )
        checks.append(off)
    return checks


LANGEVIN_TIME = 0.4


def _langevin_step(step_size: float) -> float:
    return step_size * float(problems.PATHS["vp"].values(np.array([LANGEVIN_TIME]))[1][0]) ** 2


def langevin_law(step_size: float) -> tuple[Law, Law]:
    """Of many Langevin updates at one level of Gaussian data, v / (1 - a / (4 v)); and the level's.

    With the drift (a / 2) score an update is x <- (1 - a / (2 v)) x + sqrt(a) z: its stationary
    variance solves v' = (1 - a / (2 v))² v' + a.
    """
    level = marginal(problems.PATHS["vp"], LANGEVIN_TIME)
    inflated = level.variance / (1 - _langevin_step(step_size) / (4 * level.variance))
    return Law(level.mean, inflated), level


def langevin_scores(step_size: float, count: int) -> tuple[float, float]:
    """z-scores of 60 Langevin updates against `langevin_law`."""
    sampler = part(samplers.langevin, steps_per_level=60, step_size=step_size)
    # The last level of two neighbours, so that both are the same Gaussian to 1e-6.
    times = [LANGEVIN_TIME * (1 + 1e-6), LANGEVIN_TIME]
    samples = drawn(sampler, DATA, problems.PATHS["vp"], times, (count, 1))
    return scores(samples, langevin_law(step_size)[0])


# Every predictor, on paths where 1000 steps bring its bias below the bound.
CORRECTED = [
    ("vp", "reverse_diffusion"),
    ("vp", "euler_maruyama"),
    ("vp", "ancestral"),
    ("sub_vp", "reverse_diffusion"),
    ("sub_vp", "euler_maruyama"),
    ("ve", "reverse_diffusion"),
    ("ve", "ancestral"),
    ("flow", "euler_maruyama"),
]


def corrected(
    path: str, predictor: str, num_steps: int = 1000, count: int = 100_000
) -> list[Check]:
    """Predictor-corrector's mean and variance at t = 0.1 beside q's, from draws of q at t = 1.

    Bounds: Z_BOUND standard errors, and beside them 2 / num_steps of a standard deviation and 4 /
    num_steps of the variance for the predictor's bias and the corrections' snr² = 0.0009.
    """
    schedule, times = problems.PATHS[path], np.linspace(1, 0.1, num_steps + 1)
    first, last = marginal(schedule, 1.0), marginal(schedule, 0.1)
    key_start, key = jax.random.split(jax.random.key(0))
    x = first.mean + first.variance**0.5 * jax.random.normal(key_start, (count // 500, 500))
    sampler = part(samplers.predictor_corrector, predictor=predictor, snr=0.03, final_denoise=False)
    denoise = DATA.denoiser(schedule)
    run = jax.jit(lambda key, x: sampler(denoise, schedule, times, key, x))
    out = np.asarray(run(key, x), np.float64)
    std = last.variance**0.5
    at_mean = (Z_BOUND / count**0.5 + 2 / num_steps) * std
    at_variance = (Z_BOUND * (2 / count) ** 0.5 + 4 / num_steps) * last.variance
    return [
        Check(f"mean, {path}, {predictor}", float(out.mean()), last.mean, at_mean),
        Check(f"variance, {path}, {predictor}", float(out.var()), last.variance, at_variance),
    ]

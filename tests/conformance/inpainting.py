"""Inpainting by a model that was not trained for it, on a mixture whose conditional law is known.

The data are pairs from two modes. The first entry is known to be 0.25, which tells the modes apart
but for a part; the second is to be painted. How often it falls into the upper mode is compared with
Bayes' rule.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles

from ddpm_jax import samplers
from ddpm_jax.diffusion import guidance, schedules
from ddpm_jax.samplers import grids, inpainting

DATA = oracles.Mixture([0.5, 0.5], [[-0.3, -1.0], [0.3, 1.0]], [0.1, 0.1])
KNOWN, MASK = np.array([0.25, 0.0]), np.array([0, 1])
LAW = DATA.inpainted(KNOWN, MASK)
EXACT = float(LAW.weights[1])
SCHEDULE = schedules.linear()
NUM_STEPS = 100
JUMP_LENGTH = 10
# Deviations of the known entry: within a mode, over the data, and the paper's.
WITHIN_A_MODE, OF_THE_DATA, OF_THE_PAPER = 0.1**0.5, (0.1 + 0.3**2) ** 0.5, 1.0

# (denoise, schedule, times, key, x, known, mask) -> x_0
Way = Callable[..., jax.Array]


def by_replacement(
    denoise: Any,
    schedule: Any,
    times: Any,
    key: Any,
    x: Any,
    known: Any,
    mask: Any,
    sampler: Any = samplers.ancestral,
) -> jax.Array:
    """The known part, noised, put in its place after each step."""
    project = samplers.replacement(schedule, known, mask)
    return sampler(denoise, schedule, times, key, x, project=project)


def by_repaint(num_resamples: int) -> Way:
    """Each stretch of JUMP_LENGTH steps sampled so often."""

    def run(
        denoise: Any, schedule: Any, times: Any, key: Any, x: Any, known: Any, mask: Any
    ) -> jax.Array:
        options = {"jump_length": JUMP_LENGTH, "num_resamples": num_resamples}
        return samplers.repaint(denoise, schedule, times, key, x, known=known, mask=mask, **options)

    return run


def by_observation(data_std: float) -> Way:
    """Posterior sampling, ancestral."""

    def run(
        denoise: Any, schedule: Any, times: Any, key: Any, x: Any, known: Any, mask: Any
    ) -> jax.Array:
        seen = guidance.masked(mask)
        guided = guidance.observed(denoise, schedule, seen, seen(known), data_std=data_std)
        return samplers.ancestral(guided, schedule, times, key, x)

    return run


def draw(
    way: Way,
    count: int,
    num_steps: int = NUM_STEPS,
    data: oracles.Mixture = DATA,
    known: np.ndarray = KNOWN,
) -> np.ndarray:
    """Samples [count, 2] of the pairs, by the exact unconditional denoiser."""
    times = grids.uniform(SCHEDULE, num_steps)
    knowns = jnp.broadcast_to(jnp.asarray(known, jnp.float32), (count, 2))
    mask = jnp.asarray(MASK[None])

    @jax.jit
    def sample(key: jax.Array) -> jax.Array:
        x = samplers.initial_noise(key, SCHEDULE, times, (count, 2))
        return way(data.denoiser(SCHEDULE), SCHEDULE, times, key, x, knowns, mask)

    return np.asarray(sample(jax.random.key(2)))


def conditional_draw(count: int, num_steps: int = 200) -> np.ndarray:
    """Samples [count, 1] of the painted entry by the exact conditional denoiser."""
    times = grids.uniform(SCHEDULE, num_steps)

    @jax.jit
    def sample(key: jax.Array) -> jax.Array:
        x = samplers.initial_noise(key, SCHEDULE, times, (count, 1))
        return samplers.ancestral(LAW.denoiser(SCHEDULE), SCHEDULE, times, key, x)

    return np.asarray(sample(jax.random.key(2)))


def weight(way: Way, count: int) -> float:
    """How often the painted entry falls into the upper mode; EXACT in truth."""
    return float((draw(way, count)[:, 1] > 0).mean())


def calls(num_resamples: int) -> int:
    """Network calls of `by_repaint`."""
    return inpainting.nfe(NUM_STEPS, JUMP_LENGTH, num_resamples)


# Each with its network calls; those of posterior sampling have a gradient each as well.
WAYS: dict[str, tuple[Way, int]] = (
    {
        "replacement (RePaint, 1 resample)": (by_replacement, NUM_STEPS),
        "replacement, DPM-Solver++ 2M": (
            functools.partial(by_replacement, sampler=samplers.dpm_solver_pp),
            NUM_STEPS,
        ),
    }
    | {f"RePaint, {n} resamples": (by_repaint(n), calls(n)) for n in (2, 5, 10, 20, 50)}
    | {
        f"posterior sampling, data_std {std:.2f}": (by_observation(std), NUM_STEPS)
        for std in (OF_THE_PAPER, OF_THE_DATA, WITHIN_A_MODE)
    }
)

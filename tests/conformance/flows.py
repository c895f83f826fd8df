"""The adaptive ODE beside the closed-form flow map of a Gaussian."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import oracles

from conformance import problems
from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules

DATA = oracles.Gaussian(0.4, 0.3)
TIMES = (1.0, 0.7, 0.2, 0.01)
LINEAR = schedules.linear()
# Some of them start at alpha = 0.
PATHS = problems.PATHS | {
    "flow, shift 3": schedules.flow(3.0),
    "linear, T = 1000": LINEAR,
    "cosine, T = 1000": schedules.cosine(),
    "zero terminal SNR": schedules.zero_terminal_snr(LINEAR),
}
BOUND = 1e-6


class Flow(NamedTuple):
    """The largest distance from the exact flow at any of TIMES, and the most network calls."""

    distance: float
    calls: int


def flow(path: str, solver: str, tolerance: float = 1e-8) -> Flow:
    """The probability-flow ODE from noise at t = 1, in float64."""
    schedule = PATHS[path]
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (4, 3), jnp.float64) * schedule.sigma(jnp.ones(()))

        @jax.jit
        def run(x: jax.Array) -> tuple[jax.Array, ...]:
            return samplers.probability_flow(
                DATA.denoiser(schedule),
                schedule,
                TIMES,
                jax.random.key(1),
                x,
                rtol=tolerance,
                atol=tolerance,
                solver=solver,
                return_trajectory=True,
                return_nfe=True,
            )

        _, states, calls = run(x)
        exact = jnp.stack([DATA.flow_map(schedule, x, 1.0, s) for s in TIMES])
        return Flow(float(jnp.abs(states - exact).max()), int(calls.max()))

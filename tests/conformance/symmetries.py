"""What must not change a sample: its neighbours, compilation, the number of devices."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from conformance import laws, orders, problems
from ddpm_jax import samplers
from ddpm_jax.diffusion.prediction import Denoised
from ddpm_jax.samplers import grids

part = functools.partial
SCHEDULE = problems.PATHS["vp"]
NUM_STEPS = 10
TIMES = grids.uniform(SCHEDULE, NUM_STEPS)  # down to t = 0: the last step is of first order
BATCH = 8
# The calls of the network that the docstrings state, for 10 steps to sigma = 0.
SAMPLERS: dict[str, tuple[Callable[..., Any], int]] = {
    "ancestral": (samplers.ancestral, 10),
    "DDIM": (samplers.ddim, 10),
    "DDIM, eta 0.5": (laws.NOISY["DDIM, eta 0.5"].sampler, 10),
    "Euler": (samplers.euler, 10),
    "Euler ancestral": (samplers.euler_ancestral, 10),
    "Heun": (samplers.heun, 19),
    "EDM stochastic": (laws.NOISY["EDM stochastic, S_churn 20"].sampler, 19),
    "DPM-Solver++ 2M": (orders.SOLVERS["DPM-Solver++ 2M"].sampler, 10),
    "DPM-Solver++ 3M": (orders.SOLVERS["DPM-Solver++ 3M"].sampler, 11),
    "DPM-Solver++ 3S": (orders.SOLVERS["DPM-Solver++ 3S"].sampler, 28),
    "SDE-DPM-Solver++ 3M": (laws.NOISY["SDE-DPM-Solver++ 3M"].sampler, 10),
    "UniPC-2": (orders.SOLVERS["UniPC-2"].sampler, 10),
    "UniPC-3": (orders.SOLVERS["UniPC-3"].sampler, 12),
    "Langevin, 2 a level": (part(samplers.langevin, steps_per_level=2), 21),
    "predictor-corrector": (samplers.predictor_corrector, 20),
}


class Symmetry(NamedTuple):
    """Largest differences between results, of size 1, that should be equal.

    Attributes:
      batch: of 8 at once, and one by one.
      jit: compiled and not.
      devices: on 1 and spread over 8.
      compiled: how often two calls were compiled.
      calls: of the network.
    """

    batch: float
    jit: float
    devices: float
    compiled: int
    calls: int


def measure(sampler: Callable[..., Any]) -> Symmetry:
    """In float32, with a key an image, on the CPU: of it there are 8."""
    with jax.default_device(jax.devices("cpu")[0]):
        return _measure(sampler)


def _measure(sampler: Callable[..., Any]) -> Symmetry:
    asked, compiled = [], []
    exact = problems.MIXTURE.denoiser(SCHEDULE)

    def denoise(xt: jax.Array, t: jax.Array) -> Denoised:
        jax.debug.callback(lambda: asked.append(1))
        return exact(xt, t)

    @jax.jit
    def run(keys: jax.Array, x: jax.Array) -> jax.Array:
        compiled.append(1)
        return sampler(exact, SCHEDULE, TIMES, keys, x)

    keys = jax.random.split(jax.random.key(1), BATCH)
    x = jax.random.normal(jax.random.key(0), (BATCH, 2))
    whole = np.asarray(run(keys, x))
    run(keys[::-1], 2 * x)
    times_compiled = len(compiled)
    plain = jax.block_until_ready(sampler(denoise, SCHEDULE, TIMES, keys, x))
    jax.effects_barrier()
    one_by_one = [run(keys[k : k + 1], x[k : k + 1])[0] for k in range(BATCH)]
    mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")[:BATCH]), ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    spread_out = run(*jax.device_put((keys, x), spread))

    def apart(other: Any) -> float:
        return float(np.abs(whole - np.asarray(other)).max())

    return Symmetry(
        apart(jnp.stack(one_by_one)),
        apart(plain),
        apart(spread_out),
        times_compiled,
        len(asked),
    )

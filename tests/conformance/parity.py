"""Whole trajectories beside diffusers' schedulers: the same network, grid and injected noise.

diffusers keeps its tables, noise levels and samples in float32, which moves DDPM's chain of 1000
steps by 2e-5 of its size. So its own code is run with float64 in place of every float32
(`in_float64`): then what is compared is the method, its tables and grids of times included. Ours
runs in float64 or in float32.
"""

import contextlib
import dataclasses
import functools
import importlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import samplers
from ddpm_jax.diffusion import prediction, schedules
from ddpm_jax.samplers import base, grids

SIZE = 1000
# 1000 / 10 and 999 / 9 are whole: where they are not, some of theirs leave the nodes or their own
# list (`parity_differences`).
NUM_STEPS = 10
# The data are a mixture of N(MEAN, VARIANCE) and N(-MEAN, VARIANCE), halves; some lie outside
# [-1, 1], so that clipping acts.
MEAN, VARIANCE = np.array([1.5, -0.5, 0.8]), 0.1
# A process may map 65,530 regions of memory, and a program takes some 40 of them.
CASES_TO_CLEAR = 64
SCHEDULES = {
    "linear": schedules.linear(SIZE),
    "scaled_linear": schedules.scaled_linear(SIZE),
    "squaredcos_cap_v2": schedules.cosine(SIZE),
    "sigmoid": schedules.sigmoid(SIZE, 0.0001, 0.02),
}
BETAS = {
    "linear": {"beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos_cap_v2": {},
    "sigmoid": {"beta_start": 1e-4, "beta_end": 0.02},
}
ZERO_SNR = {
    name: schedules.zero_terminal_snr(SCHEDULES[name]) for name in ("linear", "scaled_linear")
}


def _floored(zero: schedules.Schedule) -> schedules.Schedule:
    return schedules.Schedule(
        alpha=lambda t: jnp.maximum(zero.alpha(t), 2**-12),
        sigma=lambda t: jnp.minimum(zero.sigma(t), (1 - 2**-24) ** 0.5),
        network_time=zero.network_time,
        betas=zero.betas,
    )


# Zero SNR as those have it that need a finite sigma / alpha: alpha_bar ends at 2^-24.
FLOORED = {name: _floored(schedule) for name, schedule in ZERO_SNR.items()}
SPACINGS = {"leading": grids.leading, "linspace": grids.linspace, "trailing": grids.uniform}
FORMS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
MODULES = [
    "ddpm",
    "ddim",
    "pndm",
    "dpmsolver_multistep",
    "unipc_multistep",
    "euler_discrete",
    "euler_ancestral_discrete",
    "heun_discrete",
    "flow_match_euler_discrete",
    "edm_euler",
    "edm_dpmsolver_multistep",
]


def clock(time: jax.Array) -> jax.Array:
    """t of a discrete schedule's network time."""
    return (time + 1) / SIZE


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One combination.

    Attributes:
      name: of the table's row.
      schedule: ours.
      times: our grid.
      sampler: ours, its options bound.
      peer: (times [N + 1], network, noise, x [4, 3]) -> their trajectory, [N + 1, 4, 3], in x_t.
      form: what the network predicts, a name of ours.
      noisy: which of our samplers' keys the noise comes from, one of NOISE, or None.
      learned: the network brings a variance fraction.
      clock: t of the network's time.
    """

    name: str
    schedule: schedules.Schedule
    times: np.ndarray
    sampler: Callable[..., Any]
    peer: Callable[..., np.ndarray]
    form: str = "eps"
    noisy: str | None = None
    learned: bool = False
    clock: Callable[[jax.Array], jax.Array] = clock


_compared = itertools.count(1)


def difference(case: Case, dtype: Any) -> float:
    """The largest difference of the two trajectories, in units of theirs' largest value."""
    if next(_compared) % (2 * CASES_TO_CLEAR) == 0:
        jax.clear_caches()
    ours, theirs = trajectories(case, dtype)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def trajectories(case: Case, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ours, [N + 1, 4, 3], with a network and numbers of this dtype; theirs in float64."""
    ours = our_trajectory(case, dtype)
    with jax.enable_x64(dtype == np.float64):
        noise = noise_of(len(case.times) - 1, case.noisy, dtype)
    with jax.enable_x64(True), in_float64():
        return ours, case.peer(case.times, model_of(case), noise, ours[0])


def our_trajectory(case: Case, dtype: Any) -> np.ndarray:
    """What our sampler does, in numbers of this dtype."""
    with jax.enable_x64(dtype == np.float64):
        x = samplers.initial_noise(jax.random.key(0), case.schedule, case.times, (4, 3), dtype)
        network = _network(case.schedule, case.form, case.learned, case.clock)

        def apply(variables: Any, xt: jax.Array, time: jax.Array, conditions: Any) -> jax.Array:
            return network(xt, time)

        denoise = prediction.denoiser(
            apply, None, case.schedule, prediction=case.form, learned_variance=case.learned
        )
        key = jax.random.key(1)
        # Not within a jit: the scan is one compiled program all the same, and its coefficients are
        # its arguments then, so that cases share programs.
        _, path = case.sampler(denoise, case.schedule, case.times, key, x, return_trajectory=True)
        return np.asarray(path, np.float64)


@functools.cache
def _network(
    schedule: schedules.Schedule, form: str, learned: bool, clock: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The exact answer to x_t at the network's time, in the form that is asked for.

    Made once for all cases that share it, so that it is traced once.
    """
    scale = prediction.parameterisation(form).scale_input

    @jax.jit
    def network(shown: jax.Array, time: jax.Array) -> jax.Array:
        t = clock(time)
        xt = shown / scale(schedule, jnp.ones_like(shown), t)
        output = prediction.encode(form, schedule, xt, t, _exact(schedule, xt, t))
        return jnp.concatenate([output, jnp.tanh(xt)], axis=-1) if learned else output

    return network


def _exact(schedule: schedules.Schedule, xt: jax.Array, t: jax.Array) -> prediction.Denoised:
    """E[x_0 | x_t] and E[eps | x_t] of the data, in few operations: they compile quickly."""
    alpha, sigma = (schedules.expand(level(t), xt) for level in (schedule.alpha, schedule.sigma))
    mean = jnp.broadcast_to(jnp.asarray(MEAN, xt.dtype), xt.shape)
    spread = alpha**2 * VARIANCE + sigma**2
    overlap = (mean * xt).sum(axis=1, keepdims=True)
    centre = mean * jnp.tanh(alpha * overlap / spread)
    x0 = (alpha * VARIANCE * xt + sigma**2 * centre) / spread
    return prediction.Denoised(x0, sigma * (xt - alpha * centre) / spread)


def model_of(case: Case) -> Callable[[np.ndarray, float], np.ndarray]:
    """The same network for theirs: (x_t [4, 3], t) -> output, in float64."""
    network = _network(case.schedule, case.form, case.learned, case.clock)
    shown = _shown(case.schedule, case.form)

    def model(x: np.ndarray, t: float) -> np.ndarray:
        return np.array(network(*shown(jnp.asarray(x, jnp.float64), jnp.full(4, t, jnp.float64))))

    return model


@functools.cache
def _shown(schedule: schedules.Schedule, form: str) -> Callable[..., tuple[jax.Array, jax.Array]]:
    scale = prediction.parameterisation(form).scale_input
    return jax.jit(lambda x, t: (scale(schedule, x, t), schedule.network_time(t)))


# Step k's key of ours, folded into the run's: of a plain scan; of an evaluation's noise, and of its
# stir where a step has two evaluations.
NOISE = {"scan": lambda k: k, "evaluations": lambda k: 2 * k + 1, "stirs": lambda k: 4 * k}


@functools.cache
def noise_of(num_steps: int, noisy: str | None, dtype: Any) -> np.ndarray:
    """What our sampler draws at each step, [N, 4, 3]."""
    if noisy is None:
        return np.zeros((num_steps, 4, 3))
    key, like = jax.random.key(1), jnp.zeros((4, 3), dtype)
    draw = jax.jit(jax.vmap(lambda k: base.normal(jax.random.fold_in(key, k), like)))
    return np.asarray(draw(NOISE[noisy](jnp.arange(num_steps))), np.float64)


class _Doubled:
    """A module (torch or numpy) in which float32 is float64."""

    def __init__(self, module: Any):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, "float64" if name == "float32" else name)


def _modules() -> list[Any]:
    package = "diffusers.schedulers"
    names = [*(f"scheduling_{name}" for name in MODULES), "deprecated.scheduling_karras_ve"]
    return [importlib.import_module(f"{package}.{name}") for name in names]


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """diffusers' schedulers with float64 wherever they say float32."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with contextlib.ExitStack() as changes:
            for module in _modules():
                changes.enter_context(mock.patch.object(module, "torch", _Doubled(torch)))
                if hasattr(module, "np"):
                    changes.enter_context(mock.patch.object(module, "np", _Doubled(np)))
            yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def lend(noise: np.ndarray) -> Iterator[None]:
    """Let every scheduler that draws by itself draw this noise, step by step."""
    import torch

    rows = iter(noise[..., None])  # [4, 3, 1]: theirs want channels and pixels

    def drawn(*args: Any, **options: Any) -> Any:
        return torch.tensor(next(rows))

    with contextlib.ExitStack() as changes:
        for module in _modules():
            if hasattr(module, "randn_tensor"):
                changes.enter_context(mock.patch.object(module, "randn_tensor", drawn))
        yield

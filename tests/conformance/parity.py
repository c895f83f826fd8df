"""Whole trajectories beside diffusers' schedulers: the same network, grid and injected noise.

diffusers keeps its tables, noise levels and samples in float32, which moves a trajectory by up to
1.5e-4 of its size. So its own code is run with float64 in place of every float32 (`in_float64`):
then what is compared is the method. Ours runs in float64 or in float32.
"""

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles

from ddpm_jax import samplers
from ddpm_jax.diffusion import prediction, schedules
from ddpm_jax.samplers import base, grids

SIZE = 1000
NUM_STEPS = 20
# Some data lie outside [-1, 1], so that clipping acts.
DATA = oracles.Mixture([0.5, 0.5], [[-1.5, 0.5, 0.0], [1.0, 0.0, -0.5]], [0.2, 0.05])
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
SPACINGS = {"leading": grids.leading, "linspace": grids.linspace, "trailing": grids.uniform}
FORMS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


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
      noisy: which of our samplers' keys the noise comes from: "scan", "evaluations" or None.
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
    clock: Callable[[jax.Array], jax.Array] = lambda time: (time + 1) / SIZE


def difference(case: Case, dtype: Any) -> float:
    """The largest difference of the two trajectories, in units of theirs' largest value."""
    with jax.enable_x64(dtype == np.float64):
        x = samplers.initial_noise(jax.random.key(0), case.schedule, case.times, (4, 3), dtype)
        network = _network(case)
        apply = functools.partial(_apply, network, case.learned)
        denoise = prediction.denoiser(
            apply, None, case.schedule, prediction=case.form, learned_variance=case.learned
        )
        key = jax.random.key(1)
        run = jax.jit(
            lambda x: case.sampler(
                denoise, case.schedule, case.times, key, x, return_trajectory=True
            )[1]
        )
        ours = np.asarray(run(x), np.float64)
        noise = _noise(case, key, x)
    with jax.enable_x64(True), in_float64():
        output = jax.jit(functools.partial(apply, None))

        def model(x: np.ndarray, t: float) -> np.ndarray:
            times = jnp.full(4, t, jnp.float64)
            form = prediction.parameterisation(case.form)
            shown = form.scale_input(case.schedule, jnp.asarray(x, jnp.float64), times)
            return np.array(output(shown, case.schedule.network_time(times), None))

        theirs = case.peer(case.times, model, noise, np.asarray(x, np.float64))
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _network(case: Case) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The exact answer to x_t at the network's time, in the form that is asked for."""
    denoise, form = DATA.denoiser(case.schedule), prediction.parameterisation(case.form)

    def network(shown: jax.Array, time: jax.Array) -> jax.Array:
        t = case.clock(time)
        xt = shown / form.scale_input(case.schedule, jnp.ones_like(shown), t)
        return prediction.encode(case.form, case.schedule, xt, t, denoise(xt, t))

    return network


def _apply(network: Any, learned: bool, variables: Any, xt: Any, time: Any, conditions: Any) -> Any:
    output = network(xt, time)
    if not learned:
        return output
    return jnp.concatenate([output, jnp.tanh(xt + output)], axis=-1)


def _noise(case: Case, key: jax.Array, x: jax.Array) -> np.ndarray:
    """What our sampler draws at each step, [N, 4, 3]."""
    if case.noisy is None:
        return np.zeros((len(case.times) - 1, *x.shape))
    index = jnp.arange(len(case.times) - 1)
    place = index if case.noisy == "scan" else 2 * index + 1
    draw = jax.jit(jax.vmap(lambda k: base.normal(jax.random.fold_in(key, k), x)))
    return np.asarray(draw(place), np.float64)


class _Doubled:
    """A module (torch or numpy) in which float32 is float64."""

    def __init__(self, module: Any):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, "float64" if name == "float32" else name)


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """diffusers' schedulers with float64 wherever they say float32."""
    import torch

    names = (
        "ddpm ddim dpmsolver_multistep unipc_multistep euler_discrete euler_ancestral_discrete "
        "heun_discrete flow_match_euler_discrete edm_euler edm_dpmsolver_multistep"
    )
    modules = [
        importlib.import_module(f"diffusers.schedulers.scheduling_{name}") for name in names.split()
    ]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for module in modules:
            module.torch = _Doubled(torch)
            if hasattr(module, "np"):
                module.np = _Doubled(np)
        yield
    finally:
        torch.set_default_dtype(before)
        for module in modules:
            module.torch = torch
            if hasattr(module, "np"):
                module.np = np


def lend(noise: np.ndarray) -> contextlib.AbstractContextManager[None]:
    """Let every scheduler that draws by itself draw this noise, step by step."""
    import torch

    rows = iter(noise)

    def drawn(*args: Any, **options: Any) -> Any:
        return torch.tensor(next(rows))

    @contextlib.contextmanager
    def lent() -> Iterator[None]:
        names = ("ddpm", "euler_discrete", "euler_ancestral_discrete", "edm_euler")
        modules = [importlib.import_module(f"diffusers.schedulers.scheduling_{n}") for n in names]
        own = [module.randn_tensor for module in modules]
        for module in modules:
            module.randn_tensor = drawn
        try:
            yield
        finally:
            for module, function in zip(modules, own, strict=True):
                module.randn_tensor = function

    return lent()


def walk(peer: Any, times: np.ndarray, model: Any, x: np.ndarray, step: Any) -> np.ndarray:
    """The trajectory of step(output, timestep, x) over the grid, in the peer's own x."""
    import torch

    path = [x]
    for k, t in enumerate(times[:-1]):
        output = torch.tensor(model(path[-1], t))
        moved = step(output, peer.timesteps[k], torch.tensor(path[-1]), k)
        path.append(moved.prev_sample.numpy())
    return np.stack(path)


def of_indices(times: np.ndarray) -> list[int]:
    return [int(i) for i in np.rint(times[:-1] * SIZE) - 1]

"""diffusers' schedulers as functions: (times, network, noise, x) -> the trajectory in our x_t.

Each runs on its own betas, its own grid and its own noise levels, which must be ours.
"""

import importlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.parity import BETAS, SCHEDULES, SIZE, lend
from ddpm_jax.diffusion.schedules import Schedule

Build = Callable[[], Any]
Peer = Callable[..., np.ndarray]


def scheduler(kind: str, name: str | None = None, **options: Any) -> Build:
    """A scheduler of diffusers by its class; name: of a discrete schedule.

    Only DDPM knows the sigmoid schedule; the others are told our betas.
    """

    def build() -> Any:
        import diffusers

        betas: dict[str, Any] = {}
        if name == "sigmoid" and kind != "DDPMScheduler":
            betas = {"trained_betas": SCHEDULES[name].betas}
        elif name is not None:
            betas = {"beta_schedule": name, **BETAS[name]}
        return getattr(diffusers, kind)(**betas, **options)

    return build


def indices(times: np.ndarray) -> np.ndarray:
    """Those of the network, i - 1, that diffusers calls timesteps."""
    return np.rint(times[:-1] * SIZE) - 1


def by_index(build: Build, *, quiet_end: bool = False, **options: Any) -> Peer:
    """A scheduler that steps from index to index.

    Args:
      build: makes it.
      quiet_end: lend it no noise for its last step.
      options: of its step.
    """

    def run(times: np.ndarray, model: Any, noise: np.ndarray, x: np.ndarray) -> np.ndarray:
        peer, path = build(), [x]
        peer.set_timesteps(len(times) - 1)
        if quiet_end:
            noise = np.concatenate([noise[:-1], np.zeros_like(noise[-1:])])
        np.testing.assert_array_equal(peer.timesteps.numpy(), indices(times))
        with lend(noise):
            for t, i in zip(times, peer.timesteps.tolist(), strict=False):
                out = _tensor(model(path[-1], t))
                moved = peer.step(out, i, _tensor(path[-1]), **options)
                path.append(moved.prev_sample.numpy()[..., 0])
        return np.stack(path)

    return run


def by_level(
    build: Build,
    schedule: Schedule,
    *,
    level: str = "ratio",
    scaled: bool = False,
    two_calls: bool = False,
    nodes: bool = True,
    sign: int = 1,
    levels: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Peer:
    """A scheduler that steps down a list of noise levels.

    Args:
      build: makes it.
      schedule: ours.
      level: what its list holds, the "ratio" sigma / alpha or "sigma".
      scaled: its x is x / alpha.
      two_calls: it asks the network twice a step (Heun).
      nodes: its times are indices, and ours are the same.
      sign: of the network's output.
      levels: times -> the list that it is asked to use; None for its own.
    """

    def run(times: np.ndarray, model: Any, noise: np.ndarray, x: np.ndarray) -> np.ndarray:
        peer = build()
        alpha, sigma = schedule.values(times)
        if levels is None:
            peer.set_timesteps(len(times) - 1 + (times[-1] > 0))  # its own list goes on to 0
        else:
            peer.set_timesteps(sigmas=list(levels(times)))
        ours = sigma / alpha if level == "ratio" else sigma
        theirs = peer.sigmas.numpy()
        if two_calls:  # every inner level stands there twice
            theirs = np.concatenate([theirs[:1], theirs[1:-1:2], theirs[-1:]])
        np.testing.assert_allclose(theirs[: len(ours)], ours, rtol=1e-9)
        if nodes:
            own = list(dict.fromkeys(peer.timesteps.tolist()))
            np.testing.assert_allclose(own[: len(times) - 1], indices(times), atol=1e-9)
        peer._step_index = peer._begin_index = 0
        peer.is_scale_input_called = True  # what it would do is done below
        size = alpha if scaled else np.ones_like(alpha)
        path, y, calls = [x], x / size[0], 0
        with lend(noise):
            for k in range(len(times) - 1):
                for half in range(2 if two_calls and sigma[k + 1] > 0 else 1):
                    at = k + half
                    out = _tensor(sign * model(y * size[at], times[at]))
                    timestep = peer.timesteps[min(calls, len(peer.timesteps) - 1)]
                    y = peer.step(out, timestep, _tensor(y)).prev_sample.numpy()[..., 0]
                    calls += 1
                path.append(y * size[k + 1])
        return np.stack(path)

    return run


def karras_ve(schedule: Schedule, **options: float) -> Peer:
    """Algorithm 2 of Karras et al. 2022, whose network predicts (x_0 - x) / sigma."""

    def run(times: np.ndarray, model: Any, noise: np.ndarray, x: np.ndarray) -> np.ndarray:
        module = importlib.import_module("diffusers.schedulers.deprecated.scheduling_karras_ve")
        peer = module.KarrasVeScheduler(**options)
        peer.set_timesteps(len(times) - 1)
        _, sigma = schedule.values(times)

        def ask(x: Any, sigma: float) -> Any:
            return _tensor(-model(x.numpy()[..., 0], sigma / 80))

        path = [x]
        with lend(noise):
            for t, s in itertools.pairwise(sigma.tolist()):
                x_hat, hat = peer.add_noise_to_input(_tensor(path[-1]), t)
                moved = peer.step(ask(x_hat, hat), hat, s, x_hat)
                x = moved.prev_sample
                if s > 0:
                    out = ask(x, s)
                    x = peer.step_correct(out, hat, s, x_hat, x, moved.derivative).prev_sample
                path.append(x.numpy()[..., 0])
        return np.stack(path)

    return run


def _tensor(x: np.ndarray) -> Any:
    """[4, C] as [4, C, 1]: theirs want channels and pixels."""
    import torch

    return torch.tensor(x[..., None])

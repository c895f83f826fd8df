"""diffusers' schedulers as functions: (times, network, noise, x) -> the trajectory in our x_t."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.parity import BETAS, NUM_STEPS, SCHEDULES, SIZE, lend, of_indices, walk
from ddpm_jax.diffusion import schedules


def ddpm(name: str, variance: str, clip: bool, kind: str) -> Callable[..., np.ndarray]:
    def run(times: np.ndarray, model: Any, noise: np.ndarray, x: np.ndarray) -> np.ndarray:
        import diffusers

        peer = diffusers.DDPMScheduler(
            SIZE,
            beta_schedule=name,
            variance_type=variance,
            clip_sample=clip,
            prediction_type=kind,
            **BETAS[name],
        )
        peer.set_timesteps(timesteps=of_indices(times))
        with lend(noise):
            return walk(peer, times, model, x, lambda out, i, x, k: peer.step(out, i, x))

    return run


def ddim(
    name: str, spacing: str, eta: float, clip: bool, kind: str, zero_snr: bool = False
) -> Callable[..., np.ndarray]:
    def run(times: np.ndarray, model: Any, noise: np.ndarray, x: np.ndarray) -> np.ndarray:
        import diffusers
        import torch

        own = {"trained_betas": SCHEDULES[name].betas} if name == "sigmoid" else BETAS[name]
        peer = diffusers.DDIMScheduler(
            SIZE,
            beta_schedule="linear" if name == "sigmoid" else name,
            clip_sample=clip,
            prediction_type=kind,
            timestep_spacing=spacing,
            rescale_betas_zero_snr=zero_snr,
            **own,
        )
        peer.set_timesteps(NUM_STEPS)
        assert peer.timesteps.tolist() == of_indices(times)

        def step(out: Any, i: Any, x: Any, k: int) -> Any:
            return peer.step(
                out,
                int(i),
                x,
                eta=eta,
                use_clipped_model_output=clip,  # x_t = alpha x_0 + sigma eps holds here
                variance_noise=torch.tensor(noise[k]) if eta else None,
            )

        return walk(peer, times, model, x, step)

    return run


def by_sigma(
    build: Callable[[], Any], *, scaled: bool, sde: bool = False, two_calls: bool = False
) -> Callable[..., np.ndarray]:
    """A scheduler whose grid is a list of sigma / alpha, put there exactly.

    scaled: its x is x / alpha.
    """

    def run(times: np.ndarray, model: Any, noise: np.ndarray, x: np.ndarray) -> np.ndarray:
        import torch

        peer, schedule = build()
        alpha, sigma = schedule.values(times)
        peer.set_timesteps(len(times) - 1)
        ratios = torch.tensor(sigma / alpha)
        if two_calls:  # Heun's list holds every inner level twice
            ratios = torch.cat([ratios[:1], ratios[1:-1].repeat_interleave(2), ratios[-1:]])
        assert len(peer.sigmas) == len(ratios)
        # Their own levels, interpolated from a table, are these up to its rounding.
        peer.sigmas = ratios
        # All of them distinct; a step finds its place by the index that is set below.
        peer.timesteps = torch.arange(len(ratios) - 1, 0, -1, dtype=torch.float64)
        peer._step_index = peer._begin_index = 0
        peer.is_scale_input_called = True  # what it would do is done below
        size = alpha if scaled else np.ones_like(alpha)
        path, y, calls = [x], x / size[0], 0
        with lend(noise):
            for k in range(len(times) - 1):
                last = sigma[k + 1] == 0
                for half in range(2 if two_calls and not last else 1):
                    at = k + half
                    out = torch.tensor(model(y * size[at], times[at]))
                    more = {"variance_noise": torch.tensor(noise[k])} if sde else {}
                    timestep = peer.timesteps[min(calls, len(peer.timesteps) - 1)]
                    y = peer.step(out, timestep, torch.tensor(y), **more).prev_sample.numpy()
                    calls += 1
                path.append(y * size[k + 1])
        return np.stack(path)

    return run


def scheduler(kind: str, schedule: schedules.Schedule, **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        import diffusers

        return getattr(diffusers, kind)(**options), schedule

    return build


def dpm(name: str, order: int, sde: bool, solver_type: str, final: bool, kind: str) -> Any:
    build = scheduler(
        "DPMSolverMultistepScheduler",
        SCHEDULES[name],
        num_train_timesteps=SIZE,
        beta_schedule="linear",  # replaced by exact levels
        solver_order=order,
        algorithm_type="sde-dpmsolver++" if sde else "dpmsolver++",
        solver_type=solver_type,
        lower_order_final=final,
        prediction_type=kind,
    )
    return by_sigma(build, scaled=False, sde=sde)


def unipc(name: str, order: int, variant: str, final: bool) -> Any:
    build = scheduler(
        "UniPCMultistepScheduler",
        SCHEDULES[name],
        num_train_timesteps=SIZE,
        beta_schedule="linear",
        solver_order=order,
        solver_type=variant,
        lower_order_final=final,
        final_sigmas_type="zero",
    )
    return by_sigma(build, scaled=False)


def flow(schedule: schedules.Schedule) -> Callable[..., np.ndarray]:
    def run(times: np.ndarray, model: Any, noise: np.ndarray, x: np.ndarray) -> np.ndarray:
        import diffusers
        import torch

        peer = diffusers.FlowMatchEulerDiscreteScheduler(SIZE)
        _, sigma = schedule.values(times)
        peer.set_timesteps(len(times) - 1)
        peer.sigmas = torch.tensor(sigma)
        peer._step_index = peer._begin_index = 0
        return walk(peer, times, model, x, lambda out, i, x, k: peer.step(out, i, x))

    return run


def edm(kind: str, **options: Any) -> Callable[..., np.ndarray]:
    def run(times: np.ndarray, model: Any, noise: np.ndarray, x: np.ndarray) -> np.ndarray:
        import diffusers
        import torch

        peer = getattr(diffusers, kind)(**options)
        peer.is_scale_input_called = True
        _, sigma = schedules.edm().values(times)
        peer.set_timesteps(len(times) - 1)
        np.testing.assert_allclose(peer.sigmas.numpy(), sigma, rtol=1e-4)  # Karras's grid is theirs
        peer.sigmas = torch.tensor(sigma)
        peer._step_index = peer._begin_index = 0
        module = importlib.import_module(f"{type(peer).__module__}")
        own, rows = module.randn_tensor, iter(noise)
        module.randn_tensor = lambda *args, **more: torch.tensor(next(rows))
        try:
            return walk(peer, times, model, x, lambda out, i, x, k: peer.step(out, i, x))
        finally:
            module.randn_tensor = own

    return run

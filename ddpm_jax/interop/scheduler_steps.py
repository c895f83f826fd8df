"""The steps that a scheduler of diffusers takes, as a path, times and a sampler of ours."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.interop import scheduler_grids
from ddpm_jax.interop.scheduler_config import (
    ANCESTRAL,
    DDIM,
    DDPM,
    EULER,
    HEUN,
    SIGMA_MIN,
    UNIPC,
)
from ddpm_jax.samplers import evaluations
from ddpm_jax.samplers.evaluations import Evaluation
from ddpm_jax.samplers.pndm import Call, calls_on, rows_of

# DPM-Solver's lower_order_final has an effect in diffusers with less than this number of steps.
_FEW = 15


class Steps(NamedTuple):
    """The way down that a scheduler of diffusers takes with a number of steps.

    Attributes:
      schedule: the path; at `times` it has that scheduler's noise levels and network times.
      times: descending, [n + 1].
      sampler: (denoise, schedule, times, key, x, *, project, return_trajectory) -> x_0.
      start_std: x = start_std times standard normal noise where it begins with noise alone.
    """

    schedule: Schedule
    times: np.ndarray
    sampler: Callable[..., Any]
    start_std: float


def by_index(
    name: str, config: Mapping[str, Any], schedule: Schedule, num_steps: int, skipped: int
) -> Steps:
    """DDPM, DDIM and PNDM go from index to index of the chain; the others are of `by_level`.

    Args:
      name: of the class.
      config: its fields, checked.
      schedule: the chain.
      num_steps: as set_timesteps takes it.
      skipped: the steps that image-to-image leaves out, fewer than num_steps.

    Raises:
      ValueError: for a number of steps that the class cannot take.
    """
    own = scheduler_grids.indices(config, num_steps).round()
    if name == DDPM:
        times = np.append(own[skipped:] + 1, 0) / schedule.num_steps
        variance = config["variance_type"].removesuffix("_log")
        sampler = functools.partial(
            samplers.ancestral, variance=variance, clip_x0=config["clip_sample"]
        )
        return Steps(schedule, times, sampler, 1.0)
    calls = _calls(name, config, schedule, own, skipped)
    # In PNDM the second call takes the first step again.
    begins = calls if name == DDIM else [calls[0], *calls[2:]]
    times = np.array([call.start.time for call in begins] + [calls[-1].end.time])
    points = evaluations.plan(schedule, times)
    if name == DDIM:
        joined = [Call(t, t, s) for t, s in itertools.pairwise(points)]
        sampler = functools.partial(samplers.ddim)
        rows = [Evaluation(c.asked.time, **evaluations.first_order(c.start, c.end)) for c in calls]
    else:
        combined = "v" if config["prediction_type"] == "v_prediction" else "eps"
        joined = calls_on(points)
        sampler = functools.partial(samplers.pndm, combined=combined)
        rows = rows_of(calls, combined)
    if _times_of(calls) != _times_of(joined):
        sampler = functools.partial(_as_listed, rows)
    return Steps(schedule, times, sampler, 1.0)


def _calls(
    name: str, config: Mapping[str, Any], schedule: Schedule, own: np.ndarray, skipped: int
) -> list[Call]:
    """The calls and steps of DDIM and PNDM.

    Both step by T // N indices, whatever the next time of their list is: where the list has other
    strides, x is shown to the network as if it were at the level of its next time. So it is in
    PNDM's second step of an image-to-image run.
    """
    size = schedule.num_steps
    stride = size // len(own)
    if name == DDIM:
        asked = start = own[skipped:]
        end = asked - stride
    else:
        # The second of the whole list stands there twice.
        asked = np.concatenate([own[:2], own[1:]])[skipped:]
        start, end = asked.copy(), asked - stride
        start[1:2], end[1:2] = asked[1:2] + stride, asked[1:2]
    end = np.where(end < 0, -1 if config["set_alpha_to_one"] else 0, end)
    # A last step from index 0 to itself changes nothing.
    moves = start != end
    if not moves.any() or end[moves][-1] >= asked[0]:
        raise ValueError(
            f"{name} ends where it begins with {len(own) - skipped} of {len(own)} steps: take more"
        )
    columns = [(column[moves] + 1) / size for column in (asked, start, end)]
    points = [evaluations.points_at(schedule, column) for column in columns]
    return [Call(*call) for call in zip(*points, strict=True)]


def _times_of(calls: Sequence[Call]) -> list[tuple[float, float, float, bool]]:
    return [(call.asked.time, call.start.time, call.end.time, call.alone) for call in calls]


def _as_listed(
    rows: Sequence[Evaluation],
    denoise: Denoiser,
    schedule: Schedule,
    times: Any,
    key: jax.Array,
    x: jax.Array,
    **options: Any,
) -> Any:
    """A sampler of evaluations that are known already."""
    return evaluations.run(denoise, rows, times, key, x, **options)


def by_level(
    name: str, config: Mapping[str, Any], schedule: Schedule, num_steps: int, skipped: int
) -> Steps:
    """The others go down a list of noise levels, and show the network a list of times.

    Takes and raises what `by_index` does.
    """
    size = schedule.num_steps
    table = scheduler_grids.table_of(schedule, config.get("rescale_betas_zero_snr", False))
    positions, network_times, levels = scheduler_grids.levels(name, config, num_steps, table)
    count = len(positions)
    positions, network_times, levels = (
        column[skipped:] for column in (positions, network_times, levels)
    )
    # A last step from the smallest level to itself changes nothing.
    idle = bool(levels[-1] >= levels[-2] * (1 - 1e-6))
    if idle and (name == UNIPC or len(levels) == 2):
        raise ValueError(
            f"{name} with final_sigmas_type sigma_min ends where it begins in the last of "
            f"{num_steps} steps: take another number"
        )
    if idle:
        positions, network_times, levels = positions[:-1], network_times[:-1], levels[:-1]
    last = 0.0 if levels[-1] == 0 else 1 / size
    times = np.append((positions + 1) / size, last)
    if not (np.all(np.diff(levels) < 0) and np.all(np.diff(times) < 0)):
        raise ValueError(f"{name} has two steps of one noise level with {num_steps=}: take fewer")
    alpha = 1 / np.sqrt(1 + levels**2)
    path = _pinned(schedule, times, alpha, levels * alpha, network_times)
    from_noise = name in (EULER, ANCESTRAL, HEUN) and config["timestep_spacing"] != "leading"
    start_std = float(levels[0] * alpha[0]) if from_noise else 1.0
    sampler = _level_sampler(name, config, count, idle, float(alpha[-1]))
    return Steps(path, times, sampler, start_std)


def _divided(alpha: float, *args: Any, return_trajectory: bool = False, **options: Any) -> Any:
    """`euler` to x / alpha, which is the x that theirs steps and ends with."""
    out = samplers.euler(*args, return_trajectory=return_trajectory, **options)
    return (out[0] / alpha, out[1]) if return_trajectory else out / alpha


def _pinned(
    schedule: Schedule,
    times: np.ndarray,
    alpha: np.ndarray,
    sigma: np.ndarray,
    network_times: np.ndarray,
) -> Schedule:
    """The chain itself where the times are its nodes, else with these values pinned to it."""
    index = times * schedule.num_steps - 1
    shown = np.append(network_times, max(index[-1], 0))
    own = np.stack([*schedule.values(times), np.maximum(index, 0)])
    values = np.stack([alpha, sigma, shown])
    on_nodes = np.abs(index - index.round()).max() < 1e-9
    if on_nodes and np.allclose(own, values, rtol=1e-12, atol=1e-9):
        return schedule
    return schedules.pinned(schedule, times, *values)


def _level_sampler(
    name: str, config: Mapping[str, Any], count: int, idle: bool, alpha: float
) -> Callable[..., Any]:
    """Our sampler with the options of a scheduler that steps down levels.

    Args:
      count: of the steps of its whole list.
      idle: its last step, which changes nothing, is left out.
      alpha: where the last step ends.
    """
    if name == EULER:
        return samplers.euler if alpha == 1 else functools.partial(_divided, alpha)
    if name == ANCESTRAL:
        return samplers.euler_ancestral
    if name == HEUN:
        return functools.partial(
            samplers.heun, largest_correction=math.inf, clip_x0=config["clip_sample"]
        )
    order, final = config["solver_order"], config["lower_order_final"]
    if name == UNIPC:
        return functools.partial(
            samplers.unipc,
            order=order,
            form="published",
            variant="bh1" if config["solver_type"] == "bh1" else "bh2",
            lower_order_final=final,
        )
    lower = final and count < _FEW
    lower |= config["euler_at_final"] and config["final_sigmas_type"] == SIGMA_MIN
    return functools.partial(
        samplers.dpm_solver_pp,
        order=order,
        form="exact" if config["solver_type"] == "heun" else "published",
        sde=config["algorithm_type"] == "sde-dpmsolver++",
        lower_order_final=lower and not idle,
    )
